"""All elementwise operations in one place, for the families that are made of them."""

from cordee.trainer.ops.arithmetic import *
from cordee.trainer.ops.arithmetic import CAST as CAST
from cordee.trainer.ops.arithmetic import POWER as POWER
from cordee.trainer.ops.arithmetic import as_mask as as_mask
from cordee.trainer.ops.arithmetic import plain_add as plain_add
from cordee.trainer.ops.arithmetic import plain_div as plain_div
from cordee.trainer.ops.arithmetic import plain_sub as plain_sub
from cordee.trainer.ops.choosing import *
from cordee.trainer.ops.exponential import *
from cordee.trainer.ops.rounding import *
from cordee.trainer.ops.trigonometry import *
