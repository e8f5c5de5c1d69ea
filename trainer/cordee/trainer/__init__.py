"""What a training script imports: tensors, automatic differentiation, modules, optimisers, data, the elastic step."""
