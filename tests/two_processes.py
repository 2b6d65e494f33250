"""One of the processes of test_training_trainer's distributed run."""

import sys

import torch

import sinkscope as ss
from tests.families import build
from tests.test_training_trainer import arguments, collate, samples


def main(folder: str) -> None:
    trainer = ss.SinkTrainer(
        build("llama", num_hidden_layers=3, scale=0.2),
        arguments(folder, batch=2, accumulation=2, steps=2, ddp_backend="gloo"),
        weight=2.0,
        train_dataset=samples(16),
        data_collator=collate,
    )
    trainer.train()
    assert torch.distributed.get_world_size() == 2
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        torch.save(trainer.state.log_history[0]["decorrelation"], f"{folder}/logs.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
