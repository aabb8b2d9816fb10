"""What settings are called in other programs (transformers, LLaMA-Factory, Axolotl, Ludwig): for hints alone."""

from __future__ import annotations

_NAMES = {
    "optimizer.lr": "learning_rate base_lr",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type scheduler learning_rate_scheduler",
    "optimizer.warmup": "warmup_ratio warmup_steps num_warmup_steps",
    "optimizer.lora_plus_ratio": "loraplus_lr_ratio",
    "train.epochs": "num_train_epochs num_epochs n_epochs max_epochs",
    "train.batch_rows": "batch_size train_batch_size micro_batch_size per_device_train_batch_size",
    "train.micro_rows": "gradient_accumulation_steps gradient_accumulation",
    "train.clip_norm": "max_grad_norm gradient_clipping",
    "train.eval_every": "eval_steps eval_strategy evaluation_strategy",
    "train.save_every": "save_steps save_strategy",
    "train.log_every": "logging_steps",
    "train.keep": "save_total_limit",
    "train.patience": "early_stopping early_stopping_patience early_stop",
    "train.max_steps": "train_steps",
    "data.max_tokens": "max_seq_length max_length sequence_len cutoff_len max_sequence_length max_seq_len",
    "data.train": "train_file dataset dataset_name train_data",
    "data.validation": "validation_file eval_file dev_file eval_dataset",
    "data.test": "test_file test_dataset",
    "data.limit": "max_samples max_train_samples",
    "data.columns.text": "text_column text_column_name",
    "data.columns.label": "label_column label_column_name",
    "model.path": "model_name_or_path base_model model_name pretrained_model_name_or_path",
    "hardware.precision": "fp16 bf16 tf32 mixed_precision dtype torch_dtype",
    "run.dir": "output_dir output_directory out_dir",
    "resume": "resume_from_checkpoint",
}
KEYS = {name: key for key, names in _NAMES.items() for name in names.split()}
