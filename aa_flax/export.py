"""Write a trained network as a program: `python -m aa_flax.export --workdir=DIR --output=mine.stablehlo [IMAGE...]`.

    --output=mine.stablehlo    StableHLO, which JAX runs without this library, on every platform of --platforms
    --output=mine.onnx         ONNX, for onnxruntime and others

The program takes images of one size, as many as there are, and gives arrays by name; beside it lies a card, such as
mine.stablehlo.json: the names of what it tells apart, what images must go through, what goes in and comes out. It is
made for the platforms that it is to run on, whatever this machine is: where an operation has several forms it has the
one for its platform. Before anything is written the program is loaded and run beside the network, on the images given
or on made-up ones; on a platform that is not here it cannot be, which is said.

    run = jax.export.deserialize(bytearray(Path("mine.stablehlo").read_bytes())).call
    run(images)  # uint8 [b, height, width, channels], and what else the card names; gives arrays by name

In place of a run directory --workdir may name a file of weights with its card or a folder of `aa_flax.hub`.
"""

from typing import NoReturn

from absl import flags

from aa_flax.config.command_line import define_checkpoint, define_workdir, fail, height_and_width, run
from aa_flax.data.photo import PhotoError, photo_files, read_photo
from aa_flax.inference.export import ExportError
from aa_flax.inference.loading import predictor_of
from aa_flax.inference.sources import opened
from aa_flax.literal import literal
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectoryError
from aa_flax.weights import WeightsError


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_workdir(values)
    define_checkpoint(values)
    flags.DEFINE_string("output", None, "File of the program.", required=True, flag_values=values)
    kinds = "Of the file; onnx where its name ends in .onnx, else stablehlo, if not given."
    flags.DEFINE_string("format", "", f"stablehlo or onnx. {kinds}", flag_values=values)
    platforms = "Where a StableHLO program is to run, of cpu, cuda, tpu; all of them if not given."
    flags.DEFINE_list("platforms", [], platforms, flag_values=values)
    outputs = (
        "What the program gives, in a form of the run's task, such as detections or candidates, those before "
        "non-maximum suppression; its usual one if not given. A word that is none lists them."
    )
    flags.DEFINE_string("outputs", "", outputs, flag_values=values)
    pixels = "The program takes pixels, 0 to 255, and normalises them; otherwise normalised images."
    flags.DEFINE_bool("preprocessing", True, pixels, flag_values=values)
    size = "SIDE or HEIGHTxWIDTH in pixels; the run's own if not given."
    flags.DEFINE_string("image_size", None, size, flag_values=values)
    batch = "Number of images of the program; any if not given."
    flags.DEFINE_integer("batch", None, batch, lower_bound=1, flag_values=values)
    kernels = "Attention may be a kernel, for --platforms=tpu with --batch; otherwise all of it is plain XLA."
    flags.DEFINE_bool("kernels", False, kernels, flag_values=values)
    dtype = "float32 or bfloat16, of the computation; the run's own if not given, in ONNX float32."
    flags.DEFINE_string("dtype", None, dtype, flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> int | None:
    """Write the program and its card."""
    source = opened(values.workdir, checkpoint=values.checkpoint)
    photos = []
    if argv[1:]:
        files, errors = photo_files(argv[1:])
        if errors:
            fail(str(next(iter(errors.values()))))
        channels = source.read_preprocessing().channels
        photos = [read_photo(file, channels) for file in files]
    predictor = predictor_of(source)
    if values.image_size is not None:
        try:
            predictor = predictor.at(height_and_width("image_size", values.image_size))
        except ValueError as error:
            fail(f"--image_size={values.image_size}: {error}")
    card = predictor.export(
        values.output,
        photos=photos,
        say=lambda line: print(f"  {line}", flush=True),
        format=values.format,
        platforms=values.platforms,
        batch=values.batch,
        outputs=values.outputs,
        preprocessing=values.preprocessing,
        kernels=values.kernels,
        dtype=values.dtype,
    )
    for kind in ("inputs", "outputs"):
        shapes = (f"{each['name']} {each['dtype']} {each['shape']}" for each in card[kind])
        print(f"  {kind}: {'; '.join(shapes)}".replace("'", ""))
    print(literal(str(values.output)))
    return None


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, WeightsError, ExportError, PhotoError))


if __name__ == "__main__":
    command()
