"""sentence-transformers' trainer with checkpoints of this project: safetensors and JSON, written atomically."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peft import PeftModel

    from embedding_adaptation.pipelines.contrastive_finetuning.batches import PairBatches
    from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import Checkpoints

logger = logging.getLogger(__name__)

_TRAINER_STATE = "trainer_state.json"
_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random_state.safetensors"


class ContrastiveTrainer(SentenceTransformerTrainer):
    """The trainer of a PEFT model behind a template.

    Args:
        adapted: The PEFT model whose adapter trains.
        batches: Which rows make up each step.
        checkpoints: Where checkpoints go.
        describe: Plain values that are stored in a checkpoint beside weights and optimizer.
        write_more: Writes more files into a checkpoint's folder.
        first_step: Steps of earlier rounds.
        **kwargs: What sentence-transformers' trainer takes.
    """

    def __init__(
        self,
        *,
        adapted: PeftModel,
        batches: PairBatches,
        checkpoints: Checkpoints,
        describe: Callable[[], dict[str, Any]],
        write_more: Callable[[Path], None],
        first_step: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adapted = adapted
        self.batches = batches
        self.checkpoints = checkpoints
        self.describe = describe
        self.write_more = write_more
        self.first_step = first_step

    def get_batch_sampler(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """The batches given, instead of sentence-transformers' own."""
        return _Batches(self.batches)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002
        if not self.is_world_process_zero():
            return
        try:
            self.checkpoints.save(self.first_step + self.state.global_step, self._write)
        except OSError as error:  # a full disk costs the chance to go on after a crash, not the run
            logger.warning("checkpoint of step %d could not be written: %s", self.first_step + self.state.global_step, error)

    def _write(self, folder: Path) -> None:
        self.adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, Any] = {"groups": self._optimizer_state()["param_groups"], "values": {}}
        for number, values in self._optimizer_state()["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
                else:
                    plain["values"][f"{number}.{name}"] = value
        save_file(tensors, folder / _OPTIMIZER)
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states |= {f"cuda{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
        save_file(states, folder / _RANDOM)
        schedule = self.lr_scheduler.state_dict()
        schedule = {name: value for name, value in schedule.items() if name != "lr_lambdas"}
        state = {"optimizer": plain, "schedule": schedule, "first_step": self.first_step, **self.describe()}
        (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")
        self.state.save_to_json(str(folder / _TRAINER_STATE))
        self.write_more(folder)

    def _optimizer_state(self) -> dict[str, Any]:
        return dict(self.optimizer.state_dict())

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:  # noqa: ARG002
        load_adapter(self.adapted, Path(checkpoint_path))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        stored = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        state: dict[int, dict[str, Any]] = {}
        for key, value in [*load_file(folder / _OPTIMIZER).items(), *stored["optimizer"]["values"].items()]:
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": stored["optimizer"]["groups"]})
        self.lr_scheduler.load_state_dict({**self.lr_scheduler.state_dict(), **stored["schedule"]})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(Path(checkpoint) / _RANDOM)
        torch.set_rng_state(states["cpu"])
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda{number}" in states:
                torch.cuda.set_rng_state(states[f"cuda{number}"], number)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: bfloat16 needs no scale."""


def load_adapter(adapted: PeftModel, folder: Path) -> None:
    """Put the adapter weights of a checkpoint into a model.

    Raises:
        RuntimeError: If they do not fit.
    """
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(adapted, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        msg = f"the checkpoint {folder} does not fit this adapter: {', '.join(result.unexpected_keys[:3])}"
        raise RuntimeError(msg)


class LengthSortedCollator(SentenceTransformerDataCollator):
    """sentence-transformers' collator, with a batch's pairs in order of length.

    The loss does not depend on the order, and padded texts of about the same length make smaller batches.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate pairs of texts."""
        return super().__call__(sorted(features, key=lambda pair: sum(len(str(text)) for text in pair.values())))


class _Batches(DefaultBatchSampler):
    """Given batches in the form the trainer takes."""

    def __init__(self, batches: PairBatches) -> None:
        super().__init__(range(len(batches.groups)), batch_size=batches.batch_size // batches.parts, drop_last=True)
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
