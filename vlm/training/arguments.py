"""What transformers' own trainer is told of a recipe; the rest of it is `vlm.training.trainer`'s."""

import torch
from transformers import TrainingArguments

from vlm.training.precision import uses_bf16
from vlm.training.recipe import Recipe


def arguments_of(recipe: Recipe) -> TrainingArguments:
    """The arguments of a run; data, losses, schedules and what is frozen our trainer takes from the recipe itself."""
    arguments = TrainingArguments(
        output_dir=recipe.output_dir,
        max_steps=recipe.max_steps,
        gradient_accumulation_steps=recipe.accumulation,
        max_grad_norm=recipe.optim.max_grad_norm,
        save_steps=recipe.save_steps,
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,
        report_to=recipe.report_to,
        ignore_data_skip=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        bf16=uses_bf16(recipe.precision),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        seed=recipe.seed,
        activation_checkpointing=recipe.gradient_checkpointing,
        ddp_find_unused_parameters=True,  # a batch may hold no picture, and parts are frozen for a while
    )
    if arguments.n_gpu > 1:  # a process uses one; DataParallel would cut the batch's tensors without regard to rows
        arguments._n_gpu = 1
    return arguments
