"""Every operation on tensors, by family, each declared once as a record with its forward and its gradient side by side."""

from cordee.trainer.ops import methods as _methods
from cordee.trainer.ops.activation import *
from cordee.trainer.ops.attention import *
from cordee.trainer.ops.compare import *
from cordee.trainer.ops.convolution import *
from cordee.trainer.ops.creation import *
from cordee.trainer.ops.elementwise import *
from cordee.trainer.ops.indexing import *
from cordee.trainer.ops.loss import *
from cordee.trainer.ops.matmul import *
from cordee.trainer.ops.normalization import *
from cordee.trainer.ops.pooling import *
from cordee.trainer.ops.reduction import *
from cordee.trainer.ops.shape import *

_methods.attach()
