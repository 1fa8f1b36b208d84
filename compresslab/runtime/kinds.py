"""Every kind of step that a file may name, and the module that it means."""

from compresslab.runtime import floats, modules, xnor

KINDS = {
    cls.kind: cls
    for cls in (
        *(modules.QuantizeInput, modules.IntLinear, modules.IntConv2d, modules.IntDepthwiseConv2d),
        *(modules.IntLogits, modules.IntMaxPool, modules.IntMeanPool, modules.IntAdd),
        modules.IntFlatten,
        *(xnor.TakeSigns, xnor.XnorConv2d, xnor.XnorConv2dSigns, xnor.XnorLinear),
        xnor.XnorLinearSigns,
        *(floats.FloatConv2d, floats.FloatLinear, floats.FloatNorm, floats.FloatRelu),
        *(floats.FloatMaxPool, floats.FloatMeanPool, floats.FloatFlatten),
    )
}
