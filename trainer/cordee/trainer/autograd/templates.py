"""What `specialised.py` fills in for each op: how it is run and recorded, and how `backward()` walks back over it.

A line with `#?` stays where its words hold of the op ("not_": where they do not); `{…}` stands for what follows from
the record. Nothing here is checked that a failing forward would notice anyway, and what is asked is asked in the order
of likelihood: what is seldom (numbers first, arrays, mixed dtypes) goes to the careful functions of `graph.py`.

Names in capitals are of the op: `OP` its record, `KIND` its kind under autocast, `FORWARD` and `RULE0` … what computes,
`SMALL` and `SMALL_RULE0` … the same for arrays of fewer than `LEAST` elements, without fused loops.
"""

from __future__ import annotations

__all__ = [
    "BACK", "BACK_OF_INPUT", "BACK_ONE", "BINARY", "LOAD", "NEW_NODE", "NEW_TENSOR", "ONE", "RUN_ANY", "RUN_ONE",
    "SEVERAL", "UNARY",
]  # fmt: skip

# -- forward -----------------------------------------------------------------------------------------------------------

NEW_NODE = """
node = Node()
node.op = OP
node.number = next_number()
frame = getframe(1)  # the place in the user's program
code = frame.f_code
while code.co_filename in OURS:
    back = frame.f_back
    if back is None:
        break
    frame, code = back, back.f_code
node.code = code
node.lasti = frame.f_lasti
"""

NEW_TENSOR = """
result = new(Tensor)
result.data = out
result._grad = result._sink = None
"""

UNARY = """
def {name}(input, *, out=None):
    if out is not None:
        return into(out, {name}(input))
    try:
        edge0 = input._node
    except AttributeError:
        return {name}(Tensor(input))
    if SWITCH.on:                                                             #? autocast
        input = cast_input(KIND, input)                                       #? autocast
        edge0 = input._node                                                   #? autocast
    x0 = input.data
"""

ONE = """
def {name}({inputs}{params}):
    if SWITCH.on:                                                             #? autocast
        {inputs} = cast_input(KIND, {inputs})                                 #? autocast
    edge0 = {inputs}._node
    x0 = {inputs}.data
"""

RUN_ONE = """
    try:
        out = {forward}
    except (ValueError, IndexError, TypeError) as error:
        refuse(OP, [x0], {named}, error)
    out, aux = out                                                            #? aux
    if type(out) is not ndarray:                                              #? same_dtype
        out = settle_like(OP, out, [x0])                                      #? same_dtype
    if type(out) is not ndarray or out.dtype is not x0.dtype:                 #? not_same_dtype
        out = settle_like(OP, out, [x0])                                      #? not_same_dtype
    if edge0 is None or (OFF.threads and not MODE.enabled) or TOLD.on:
        if TOLD.on:
            result = finish(OP, out, (edge0,), [x0], {noted})
        else:
            {new_tensor}
            result._node = None
    else:
        {new_node}
        {new_tensor}
        result._node = node
        node.edges = (edge0,)
        node.saved = {saved}
        node.out = {kept_out}
        node.params = {noted}
        node.uneven = False
    result._base = {inputs}                                                   #? view
    return result
"""

LOAD = """
edge{i} = {input}._node                                                       #? first
x{i} = {input}.data                                                           #? first
if {input} is None:                                                           #? not_first
    edge{i} = x{i} = None                                                     #? not_first
else:                                                                         #? not_first
    edge{i} = {input}._node                                                   #? not_first
    x{i} = {input}.data                                                       #? not_first
"""

SEVERAL = """
def {name}({inputs}{params}):
    if SWITCH.on:                                                             #? autocast
        {inputs} = cast_inputs(KIND, ({inputs}))                              #? autocast
    try:
        {load}
    except AttributeError:  # a number, or an array
        return apply(OP, {inputs}{passed})
    dtype = x0.dtype
    if {mixed}:
        return apply(OP, {inputs}{passed})
    try:
        out = {forward}
    except (ValueError, IndexError, TypeError) as error:
        refuse(OP, [{xs}], {named}, error)
    out, aux = out                                                            #? aux
    if type(out) is not ndarray or out.dtype is not dtype:
        out = settle_like(OP, out, [{xs}])
    if ({no_edge}) or (OFF.threads and not MODE.enabled) or TOLD.on:
        return finish(OP, out, ({edges}), [{xs}], {noted}) if TOLD.on else wrap(out)
    {new_node}
    {new_tensor}
    result._node = node
    node.edges = ({edges})
    node.saved = ({saved})
    node.out = {kept_out}
    node.params = {noted}
    node.uneven = {uneven}
    return result
"""

BINARY = """
def {name}(input, other, *, out=None):
    if out is not None:
        return into(out, {name}(input, other))
    if SWITCH.on:                                                             #? autocast
        input, other = cast_inputs(KIND, (input, other))                      #? autocast
    kind = type(other)
    if kind is float or kind is int:
        if not isinstance(input, Tensor) or input.data.dtype is bfloat16:
            return apply_two({name}, OP, input, other)
        edge0 = input._node
        x0 = input.data
        edge1, x1 = None, other
        dtype = x0.dtype
    elif type(input) is float or type(input) is int:
        if not isinstance(other, Tensor) or other.data.dtype is bfloat16:
            return apply_two({name}, OP, input, other)
        edge1 = other._node
        x1 = other.data
        edge0, x0 = None, input
        dtype = x1.dtype
        kind = float
    else:
        try:
            edge0 = input._node
            edge1 = other._node
        except AttributeError:  # an array, a list
            return apply_two({name}, OP, input, other)
        x0 = input.data
        x1 = other.data
        dtype = x0.dtype
        if x1.dtype is not dtype:
            return apply_two({name}, OP, input, other)
    try:
        out = {forward}
    except (ValueError, TypeError) as error:
        refuse(OP, [x0, x1], NO_PARAMS, error)
    if type(out) is not ndarray or (kind is float and out.dtype is not dtype):    #? same_dtype
        out = settle_like(OP, out, [x0, x1])                                  #? same_dtype
    if type(out) is not ndarray or out.dtype is not dtype:                    #? not_same_dtype
        out = settle_like(OP, out, [x0, x1])                                  #? not_same_dtype
    if (edge0 is None and edge1 is None) or (OFF.threads and not MODE.enabled) or TOLD.on:
        return finish(OP, out, (edge0, edge1), [x0, x1], NO_PARAMS) if TOLD.on else wrap(out)
    {new_node}
    {new_tensor}
    result._node = node
    node.edges = (edge0, edge1)
    if kind is float or kind is int or (shape0 := x0.shape) == (shape1 := x1.shape):    #? elementwise
        node.saved = {even}                                                             #? elementwise
        node.uneven = False                                                             #? elementwise
    else:                                                                               #? elementwise
        node.saved = {uneven}                                                           #? elementwise
        node.uneven = True                                                              #? elementwise
    shape0, shape1 = x0.shape, x1.shape                                                 #? not_elementwise
    node.saved = {uneven}                                                               #? not_elementwise
    node.uneven = len(shape0) > 2 or len(shape1) > 2                                    #? not_elementwise
    node.out = {kept_out}
    node.params = NO_PARAMS
    return result
"""

RUN_ANY = """
def {name}(*inputs, **params):
    return apply(OP, *inputs, **params)
"""

# -- backward ----------------------------------------------------------------------------------------------------------
# `back(F, node, g, retain, grads, way)` hands the gradients that follow from `g` to leaves, and puts them beside those
# in `grads` that are on their way; except one, for a node without any so far: it is returned with its node, and the
# walk goes straight on there.

BACK_ONE = """
def {name}(F, node, g, retain, grads, way):
    saved = node.saved
    if saved is None:                                                         #? keeps
        raise freed(node)                                                     #? keeps
    x0, = saved
    edge0, = node.edges
    out = node.out                                                            #? keeps_out
    out = None                                                                #? not_keeps_out
    params = node.params                                                      #? params
    {unpack}                                                                  #? params
    if edge0 in way.owned:                                                    #? adds
        ADDS(F, grads[edge0], {arguments})                                    #? adds
        return NOWHERE                                                        #? adds
    d = {rule}
    if not retain:                                                            #? keeps
        node.saved = node.out = node.params = None                            #? keeps
    if d is None:                                                             #? not_sure
        return NOWHERE                                                        #? not_sure
    if type(edge0) is Leaf:
        add_array(edge0, d, 0)
        return NOWHERE
    if grads and edge0 in grads:
        return way.meet(edge0, d)
    return edge0, d
"""

BACK = """
def {name}(F, node, g, retain, grads, way):
    saved = node.saved
    if saved is None:                                                         #? keeps
        raise freed(node)                                                     #? keeps
    {xs} = saved
    {edges} = node.edges
    out = node.out                                                            #? keeps_out
    out = None                                                                #? not_keeps_out
    params = node.params                                                      #? params
    {unpack}                                                                  #? params
    following = coming = None
    {each}
    if not retain:                                                            #? keeps
        node.saved = node.out = node.params = None                            #? keeps
    return following, coming
"""

BACK_OF_INPUT = """
if edge{i} is not None and not (                                              #? writes
    type(edge{i}) is Leaf and write(edge{i}, WRITES{i}, F, g, out, saved, node.params)    #? writes
    or type(edge{i}) is not Leaf and write_wide(edge{i}, WRITES{i}, F, g, out, saved, node.params)    #? writes low
):                                                                            #? writes
if edge{i} is not None:                                                       #? not_writes
    d = {rule}
    if node.uneven and d is not None:                                         #? broadcasts
        shape = shape_of(x{i})                                                #? broadcasts
        if d.shape != shape:                                                  #? broadcasts
            d = F.sum_to(d, shape=shape)                                      #? broadcasts
    if d is None:                                                             #? not_sure
        pass                                                                  #? not_sure
    elif type(edge{i}) is Leaf:                                               #? not_sure
    if type(edge{i}) is Leaf:                                                 #? sure
        add_array(edge{i}, d, 0)
    elif following is None and (not grads or edge{i} not in grads):
        following, coming = edge{i}, d
    else:
        if edge{i} is following:                                              #? not_first
            way.meet(following, coming)                                       #? not_first
            following = None                                                  #? not_first
        way.meet(edge{i}, d)
"""
