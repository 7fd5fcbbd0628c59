"""The attention functions of the paper's networks, by shape."""

from dataclasses import dataclass

HEADS = 8
KEY_DEPTH = 20  # per head


@dataclass(frozen=True)
class Case:
    """One map on which a network attends, and the batch that each kind of machine is given."""

    network: str
    height: int
    width: int
    in_features: int  # of the projection to queries, keys and values
    value_depth: int  # per head
    cpu_batch: int
    gpu_batch: int

    @property
    def map(self) -> str:
        """The height and width as text, such as 14x14."""
        return f"{self.height}x{self.width}"

    def flops(self, batch: int) -> int:
        """Return the operations of a forward pass by `aa_flax.analysis.summarize`'s rule: twice the multiply-adds."""
        offsets = 2 * self.height - 1 + 2 * self.width - 1
        places = self.height * self.width
        return 2 * batch * HEADS * places * (places * (KEY_DEPTH + self.value_depth) + offsets * KEY_DEPTH)

    def bytes(self, batch: int, itemsize: int) -> int:
        """Return the bytes of queries, keys, values and the result, each once; the tables are too small to count."""
        return itemsize * batch * HEADS * self.height * self.width * 2 * (KEY_DEPTH + self.value_depth)


# Wide-ResNet-28-10 attends in all three stages; its images are 32×32.
# ResNet-50 pools stage 2 from 28×28 to 14×14 before it attends (Bello et al., 2019, section 4.2); 28×28 is unpooled.
# RetinaNet's backbone has these maps for images of 640×640.
CASES = (
    Case("aa_wide_resnet28_10", 32, 32, 160, 2, cpu_batch=4, gpu_batch=128),
    Case("aa_wide_resnet28_10", 16, 16, 320, 4, cpu_batch=16, gpu_batch=128),
    Case("aa_wide_resnet28_10", 8, 8, 640, 8, cpu_batch=32, gpu_batch=128),
    Case("aa_resnet50", 28, 28, 128, 1, cpu_batch=4, gpu_batch=256),
    Case("aa_resnet50", 14, 14, 128, 1, cpu_batch=16, gpu_batch=256),
    Case("aa_resnet50", 14, 14, 256, 3, cpu_batch=16, gpu_batch=256),
    Case("aa_resnet50", 7, 7, 512, 6, cpu_batch=32, gpu_batch=256),
    Case("retinanet", 40, 40, 256, 3, cpu_batch=1, gpu_batch=8),
    Case("retinanet", 80, 80, 128, 1, cpu_batch=1, gpu_batch=8),
)
