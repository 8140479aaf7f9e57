def parameters_of(module):
    """Names and shapes of the trained parameters, in the order of the vector."""
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
