"""The training loop: batch, forward, loss, backward, clip, step; at intervals an evaluation on held-out pairs and a checkpoint."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.embedder.decoder_pass import decoder_layers
from embedding_adaptation.embedder.storage import strategy_to_dict
from embedding_adaptation.forecast import WORTH_SAYING, looks
from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import (
    TrainingState,
    load_optimizer,
    read_training,
    write_training,
)
from embedding_adaptation.pipelines.contrastive_finetuning.collisions import collision_rate
from embedding_adaptation.pipelines.contrastive_finetuning.cost import counting, layer_weights
from embedding_adaptation.pipelines.contrastive_finetuning.interpolation import keep_best_scale
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.pipelines.contrastive_finetuning.judging import best_step, is_exhausted
from embedding_adaptation.pipelines.contrastive_finetuning.lora import load_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import from_first, rank
from embedding_adaptation.pipelines.contrastive_finetuning.setup import prepare
from embedding_adaptation.wording import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.setup import Setup

logger = logging.getLogger(__name__)

_FEWEST_STEPS = 2  # from which to tell how long others take: the first one alone may be slower

HISTORY_COLUMNS = (
    "step", "train_loss", "validation_loss", "validation_accuracy", "alignment", "uniformity", "effective_rank", "neighbour_agreement",
    "text_attention", "gradient_norm", "learning_rate", "pairs", "texts", "tokens", "operations", "joules", "seconds",
)  # fmt: skip


def train_in_process(job: TrainingJob) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train in this process, which may be one of several that share the run; see :func:`.devices.train`."""
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
        setup = prepare(job, Path(scratch))
        state = fit(setup)
        steps, scales = from_first(lambda: (keep_best(setup, state), keep_best_scale(setup)))
    setup.model.eval()
    strategy, template = setup.strategy, setup.strategy.templates[0].pattern
    adapter = TrainedAdapter(
        setup.model,
        job.weights.card,
        template,
        strategy.pooling,
        setup.embedder.max_length,
        steps,
        strategy=strategy_to_dict(strategy),
        scales=scales,
        collision_rate=None if setup.teacher is None else collision_rate(setup.teacher),
    )
    history = pd.DataFrame(state.rows, columns=list(HISTORY_COLUMNS)).astype({"step": int})
    return adapter, history.assign(chosen=history["step"] == steps)


def fit(setup: Setup) -> TrainingState:
    """Train to the end, starting from the last checkpoint if there is one.

    Args:
        setup: What :func:`.setup.prepare` made; its model has the last step's weights afterwards.

    Returns:
        The run's state after the last step.

    Raises:
        TrainingError: If the loss is not finite.
    """
    options, stopping, model, cache = setup.job.options, setup.job.options.stopping, setup.model, setup.cache
    last = setup.checkpoints.last()
    state = TrainingState() if last is None else read_training(last.folder)
    if last is not None:
        load_adapter(model, last.folder)
        logger.info("resuming training at step %d of %d", state.step, options.steps)
    start = time.perf_counter() - state.seconds
    now, optimizer = setup.round(state), adamw(setup, options)
    if last is not None:
        load_optimizer(last.folder, optimizer)
    else:
        state.rows = [{"step": 0, **setup.judged(0), "pairs": 0, "texts": 0, "tokens": 0, "operations": 0.0}]
        state.rows[0] |= setup.spent | {"seconds": time.perf_counter() - start}
    batches, layers = now.batches(state.step), layer_weights(decoder_layers(model.get_base_model()))
    size, done, columns = options.batch_size, state.step, len(now.columns)
    first = done
    with tqdm(total=options.steps * size, initial=done * size, unit=unit_of(setup), desc="train", disable=rank() > 0) as bar:
        while done < options.steps and not is_exhausted(state.rows, stopping.criterion, stopping.patience):
            if done == now.last_step:
                now, optimizer = setup.next_round(state), adamw(setup, options)
                batches = now.batches(done)
            batch = next(batches)  # [B] places of texts or pairs
            rate = options.learning_rate * learning_rate_factor(done, options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(step_seed(options.seed, done))  # of dropout
            model.train()
            with counting(cache, setup.lower_states, layers) as spent:
                embedded = cache.forward(now.rows(batch))
                loss = now.loss(embedded.columns, batch)
                loss_value = finite(loss, done + 1)
                cache.backward(embedded, loss)
                norm = torch.nn.utils.clip_grad_norm_(setup.weights, options.max_gradient_norm or math.inf)
                optimizer.step()
                optimizer.zero_grad()
            done += 1
            row = {"step": done, "train_loss": loss_value, "gradient_norm": norm.item(), "learning_rate": rate}
            row |= {"pairs": 0 if setup.lessons else done * size, "texts": done * columns * len(batch)}
            row |= {name: state.rows[-1].get(name, 0) + value for name, value in spent.items()}
            bar.set_postfix_str(f"loss {loss_value:.3f}", refresh=False)
            bar.update(size)
            is_look = (done - now.first_step) % options.validate_every == 0 or done == now.last_step
            if is_look:
                row |= setup.judged(done)
            row["seconds"] = state.seconds = time.perf_counter() - start
            state.rows.append(row)
            if is_look and rank() == 0:
                save(setup, optimizer, state)
            tell_remaining(state.rows, first, options)
    return state


def tell_remaining(rows: Sequence[Mapping[str, float]], first: int, options: FinetuningOptions) -> None:
    """Log how long the rest of training will take, once steps and a look of this process have been timed; see :func:`remaining_seconds`."""
    done, every = int(rows[-1]["step"]), options.validate_every
    look = (first // every + 1) * every
    if done != max(first + _FEWEST_STEPS, look if look < options.steps else 0) or rank():
        return
    left = remaining_seconds(rows, first, options.steps, every)
    if left >= WORTH_SAYING:
        logger.info("training: %d steps to go, about %s unless it stops early", options.steps - done, duration(left))


def remaining_seconds(rows: Sequence[Mapping[str, float]], first: int, steps: int, every: int) -> float:
    """Seconds until the last step, from those of the first steps of this process and of the look at the criteria after them.

    The look before the first step tells little: it does some work for all of them.

    Args:
        rows: The history, with ``step`` and the ``seconds`` at its end.
        first: The step that this process started after.
        steps: Number of the last step.
        every: Steps between looks.
    """
    timed = [row for row in rows if row["step"] >= first]
    spans = [(int(row["step"]), row["seconds"] - before["seconds"]) for before, row in itertools.pairwise(timed)]
    plain, looking = ([span for number, span in spans if bool(number % every) == is_plain] for is_plain in (True, False))
    step = statistics.fmean(plain or looking)
    look = max(0.0, statistics.fmean(looking) - step) if looking and plain else 0.0
    done = int(rows[-1]["step"])
    return (steps - done) * step + (looks(steps, every) - 1 - done // every) * look


def unit_of(setup: Setup) -> str:
    """What a batch consists of."""
    return "pair" if setup.lessons is None else "text"


def finite(loss: torch.Tensor, step: int) -> float:
    """The loss as a finite number.

    Raises:
        TrainingError: If it is not finite.
    """
    value = loss.item()
    if not math.isfinite(value):
        msg = (
            f"the training loss is {value} at step {step}; lower contrastive_finetuning.learning_rate "
            "or set dtype to float32 in conf/base/globals.yml"
        )
        raise TrainingError(msg)
    return value


def adamw(setup: Setup, options: FinetuningOptions) -> torch.optim.AdamW:
    """A fresh optimizer of the weights that train."""
    return torch.optim.AdamW(setup.weights, lr=options.learning_rate, weight_decay=options.weight_decay)


def learning_rate_factor(step: int, options: FinetuningOptions) -> float:
    """Share of the highest learning rate at a step, counted from 0."""
    pairs, total = step * options.batch_size, options.steps * options.batch_size
    warmup = min(options.warmup_pairs, total)
    if pairs < warmup:
        return (pairs + options.batch_size) / (warmup + options.batch_size)
    done = (pairs - warmup) / max(total - warmup, 1)
    if options.schedule == "constant":
        return 1.0
    return max(0.0, 1.0 - done) if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's dropout, different in every process; the same for a resumed run as for an uninterrupted one."""
    return int(np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)[0] >> 1)


def save(setup: Setup, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write a checkpoint. If the disk is full, the run continues, but cannot be resumed from this step."""
    try:
        setup.checkpoints.save(state.step, lambda folder: write_training(folder, setup.model, optimizer, state))
    except OSError as error:
        logger.warning("checkpoint of step %d could not be written: %s", state.step, error)


def keep_best(setup: Setup, state: TrainingState) -> int:
    """Load the weights of the best step by the criterion into the model, and return that step."""
    criterion = setup.job.options.stopping.criterion
    best = best_step(state.rows, criterion)
    if best == 0:
        logger.warning("no step improved %s over the base model: the adapter changes nothing", criterion)
        with torch.no_grad():
            for name, weight in setup.model.named_parameters():
                if name in setup.initial:
                    weight.copy_(setup.initial[name])
    elif best != state.step:
        folder = next((checkpoint.folder for checkpoint in setup.checkpoints.all() if checkpoint.step == best), None)
        if folder is not None:
            load_adapter(setup.model, folder)
        else:
            logger.warning("step %d was best, but its checkpoint could not be written; the last step is kept", best)
            best = state.step
    logger.info("kept step %d of %d", best, state.step)
    return best
