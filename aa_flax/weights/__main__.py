"""Import PyTorch's weights or export this library's: `python -m aa_flax.weights import|export`.

    python -m aa_flax.weights import --model=resnet50 --source=timm resnet50.safetensors ours.safetensors
    python -m aa_flax.weights import --model=aa_resnet50 --source=timm --from_plain resnet50.safetensors aa.safetensors
    python -m aa_flax.weights export --source=timm ours.safetensors theirs.safetensors

`import` writes ours.safetensors and its card, ours.json; `export` writes arrays with PyTorch's names and axes.
"""

import hashlib
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from flax import nnx

import aa_flax
from aa_flax.config.command_line import fail, height_and_width, run
from aa_flax.literal import literal, literal_lines
from aa_flax.models import create_model
from aa_flax.weights import WeightsError, init_from_plain, load, load_torch_state_dict, read_state_dict, save
from aa_flax.weights.convert import to_torch_state_dict
from aa_flax.weights.files import write


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "model", None, "import: name of the network, as in aa_flax.models.list_models().", flag_values=values
    )
    flags.DEFINE_string(
        "options", "{}", 'import: options of the network as JSON, such as {"kappa": 0.5}.', flag_values=values
    )
    flags.DEFINE_integer(
        "num_classes", None, "import: width of the classifier; the model's own if not given.", flag_values=values
    )
    size = "import: SIDE or HEIGHTxWIDTH in pixels that position tables are for; the model's own if not given."
    flags.DEFINE_string("image_size", None, size, flag_values=values)
    flags.DEFINE_integer("in_channels", 3, "import: channels of the images.", flag_values=values)
    flags.DEFINE_string(
        "source",
        None,
        "timm, torchvision or deit: whose names the PyTorch file has; import --from_plain takes aa_flax too.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "key", "", "import: entry of the file that is the state dict, if it holds several.", flag_values=values
    )
    flags.DEFINE_bool("adapt_stem", False, "import: make the first convolution for --in_channels.", flag_values=values)
    flags.DEFINE_bool(
        "from_plain", False, "import: take what fits of a plain network; the rest starts fresh.", flag_values=values
    )
    flags.DEFINE_bool(
        "zero_output", False, "import --from_plain: output projections of attention start at zero.", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "import --from_plain: of the fresh weights.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Read one file of weights and write another.

    Raises:
        SystemExit: the arguments or flags are wrong.
        WeightsError: the weights do not fit, or a file cannot be read or written.
    """
    if len(argv) != 4 or argv[1] not in ("import", "export"):
        fail(f"expected import or export, a file to read and a file to write; got {' '.join(argv[1:]) or 'nothing'}")
    read, written = Path(argv[2]).expanduser(), Path(argv[3]).expanduser()
    source = values.source
    if source is None:
        fail(f"{argv[1]} needs --source")
    if written.suffix != ".safetensors":
        fail(f"{written}: expected a name that ends in .safetensors")
    if read.resolve() == written.resolve():
        fail(f"{written}: would overwrite the file that is read")
    if argv[1] == "import":
        _import(read, written, source, values)
    elif values.model is not None:
        fail("export takes no --model: the card of the file names it")
    else:
        model, card = load(read)
        arrays = to_torch_state_dict(model, source=source)
        write(written, arrays, {"format": "pt"})
        print(literal(f"{card['model']}: {len(arrays)} arrays under the names of {source} in {written}"))


def _import(read: Path, written: Path, source: str, values: flags.FlagValues) -> None:
    name = values.model
    if name is None:
        fail("import needs --model")
    if values.zero_output and not values.from_plain:
        fail("--zero_output goes with --from_plain")
    try:
        options = dict(json.loads(values.options))
    except (ValueError, TypeError) as error:
        fail(f"--options must be a JSON object, got {values.options} ({error})")

    size = None if values.image_size is None else height_and_width("image_size", values.image_size)

    def build() -> nnx.Module:
        rngs = nnx.Rngs(values.seed)
        sizes: dict[str, Any] = dict(num_classes=values.num_classes, image_size=size, in_channels=values.in_channels)
        return create_model(name, **sizes, rngs=rngs, **options)

    shapes = nnx.eval_shape(build)  # an unknown name or a wrong number of classes raises here
    state_dict = read_state_dict(read, key=values.key)
    origin: dict[str, Any] = {
        "source": source,
        "file": read.name,
        "file_sha256": hashlib.sha256(read.read_bytes()).hexdigest(),
        "date": date.today().isoformat(),
        "aa_flax": aa_flax.__version__,
    }
    if values.from_plain:
        model = build()
        report = init_from_plain(
            model, state_dict, source=source, zero_output=values.zero_output, adapt_stem=values.adapt_stem
        )
        origin |= {"from_plain": True, "zero_output": values.zero_output, "seed": values.seed, "new": list(report.new)}
        text = f"{report}\n"
    else:
        model = shapes
        report = load_torch_state_dict(model, state_dict, source=source, adapt_stem=values.adapt_stem)
        text = "".join(f"{note}\n" for note in report.notes)
    save(model, written, origin=origin | {"notes": list(report.notes)})
    print(literal_lines(f"{text}{name}: {written} and {written.with_suffix('.json')}"))


def guarded(argv: list[str], values: flags.FlagValues) -> None:
    """Run `main`; print a WeightsError with all its lines, one for each problem, and exit with status 2."""
    try:
        main(argv, values)
    except WeightsError as error:
        print(literal_lines(f"error: {error}"), file=sys.stderr)
        sys.exit(2)


def command() -> NoReturn:
    """Run the command line and exit."""
    run(guarded, define, expected=(ValueError, TypeError))


if __name__ == "__main__":
    command()
