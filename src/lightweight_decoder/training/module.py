"""The LightningModule around decoder, adapter and reranker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import lightning as L  # noqa: N812 - the name everyone uses
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import Field
from torch import Tensor, nn

from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.evaluation.rank_metrics import ranking_metrics
from lightweight_decoder.rerank import ListwiseReranker, is_right, listwise_loss
from lightweight_decoder.training.mining import CandidateMiner

if TYPE_CHECKING:
    from lightweight_decoder.training.sources.datamodule import Batch, DecoderDataModule

_START_SCALE = 20.0
_SCALE_LR = 1e-2
_WARMUP_SHARE = 0.1

System = Literal["baseline", "decoder"]
_Count = Annotated[int, Field(ge=1)]


class DecoderModule(L.LightningModule):
    """Trains the learned parts of a decoder, together, with one listwise loss each.

    The adapter learns to tell a query's right phrases from sampled ones, the reranker to tell them
    from the candidates that the search finds with the current adapter, mined anew every epoch.
    Phrases that no training query asks for are never negatives: training can only say that they are
    wrong, and a decoder that believes it fails on every phrase it was not trained on.

    Every epoch draws from its own seed, so a resumed run repeats an uninterrupted one.

    A Trainer's precision is that of the learned layers. Queries, search values, losses and ranks
    are float32 in each, and the test is of the decoder in float32, which is how it is used later.

    Args:
        decoder: What is trained, in place.
        lr: Peak learning rate of AdamW, in (0, 1]; it rises over the first tenth of the steps, then
            falls to 0 linearly.
        weight_decay: Weight decay of the reranker; the adapter has none.
        num_negatives: Vectors sampled for each batch as the adapter's negatives.
        num_hard_negatives: Mined candidates of each query that join them.
        num_listed: Mined candidates in each list that the reranker is trained on; decoding
            re-orders ``num_candidates``, which costs time once, not in every epoch.
        num_mined: Training queries for which candidates are mined in an epoch; the others train the
            adapter only.
        seed: Seed of everything that is drawn while training.
    """

    def __init__(
        self,
        *,
        decoder: PhraseBankDecoder,
        lr: Annotated[float, Field(gt=0, le=1)] = 1e-3,
        weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01,
        num_negatives: _Count = 1_024,
        num_hard_negatives: Annotated[int, Field(ge=0)] = 4,
        num_listed: _Count = 64,
        num_mined: _Count = 32_768,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "num_negatives": num_negatives,
                "num_hard_negatives": num_hard_negatives,
                "num_listed": num_listed,
                "num_mined": num_mined,
                "seed": seed,
            }
        )
        self.decoder = decoder
        self.accelerator_plan: dict[str, Any] = {}
        self.adapter = decoder.adapter
        reranker = decoder.reranker
        self.reranker = reranker if isinstance(reranker, ListwiseReranker) else None
        self.held_out_mrr = math.nan
        self.log_scale = nn.Parameter(torch.tensor(math.log(_START_SCALE)))
        self._miner: CandidateMiner | None = None
        self._ranks: dict[System, list[Tensor]] = {"baseline": [], "decoder": []}
        self._baseline_is_known = False

    @property
    def is_trainable(self) -> bool:
        """Whether the decoder has any part that is learned step by step."""
        return self.adapter is not None or self.reranker is not None

    @property
    def best_mrr(self) -> float:
        """The best ``val/decoder/mrr`` of the run in [0, 1]; NaN where nothing was trained."""
        callback = self.trainer.checkpoint_callback
        best = getattr(callback, "best_model_score", None)
        return self.held_out_mrr if best is None else float(best)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of dictionaries
        """AdamW with a linear schedule over all steps of the run."""
        decayed, shares = _matrices(self.reranker), _scalars(self.reranker)
        groups = [
            {"params": _parameters(self.adapter), "weight_decay": 0.0},
            {"params": decayed, "weight_decay": self.hparams["weight_decay"]},
            {"params": [self.log_scale, *shares], "weight_decay": 0.0, "lr": _SCALE_LR},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.hparams["lr"]
        )
        num_steps = self.trainer.estimated_stepping_batches
        has_end = math.isfinite(num_steps)
        # Without a last step it rises over a tenth of the first epoch, and stays.
        known_steps = num_steps if has_end else len(self._datamodule.train_dataloader())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / (_WARMUP_SHARE * known_steps), 1 - step / num_steps),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Move the decoder to the Trainer's device."""
        device = self.trainer.strategy.root_device
        self.decoder.to(device)
        self.baseline = PhraseBankDecoder(
            self.decoder.bank, search=self.decoder.search, device=device
        )

    def on_fit_start(self) -> None:
        """Read the training queries, which mining needs all at once."""
        split = self._datamodule.split("train")
        self._miner = CandidateMiner(
            self.decoder,
            split,
            num_listed=self.hparams["num_listed"],
            num_mined=self.hparams["num_mined"],
            device=self.device,
        )
        if self.adapter is not None and self.current_epoch == 0:
            first_targets = torch.from_numpy(split.targets[:, 0])
            rows = torch.from_numpy(self.decoder.bank.vector_ids_of(first_targets.numpy())[:, 0])
            vectors = self.decoder.bank.gather(rows[:, None])[:, 0]
            self.adapter.fit_projection(torch.from_numpy(split.queries), vectors)

    def on_train_end(self) -> None:
        """Refuse weights that no decoder could use."""
        self._check_weights()

    def on_fit_end(self) -> None:
        """Forget that plain search was validated: what comes is measured as a whole."""
        self._baseline_is_known = False

    def on_train_epoch_start(self) -> None:
        """Start the epoch's random numbers, and mine with the adapter as it is now."""
        self._check_weights()
        epoch_seed = self.hparams["seed"] * 1_000_003 + self.current_epoch
        torch.manual_seed(epoch_seed)
        self.eval()
        self.miner.mine(seed=epoch_seed)
        self.train()

    def training_step(self, batch: Batch) -> Tensor:
        """Return the sum of the adapter's and the reranker's loss."""
        adapted = self.decoder.adapt(batch.queries)
        losses: dict[str, Tensor] = {}
        if self.adapter is not None:
            losses["adapter_loss"] = self._adapter_loss(batch, adapted)
        if self.reranker is not None:
            losses["reranker_loss"] = self._reranker_loss(self.reranker, batch, adapted.detach())
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {**losses, "loss": loss}.items():
            self.log(
                f"train/{name}",
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=name == "loss",
                batch_size=len(batch),
            )
        return loss

    def _adapter_loss(self, batch: Batch, adapted: Tensor) -> Tensor:
        """Return the listwise loss over the batch's right vectors, sampled ones, and mined ones."""
        vector_ids = self.miner.shared_negatives(
            batch, self.hparams["num_negatives"], self.hparams["num_hard_negatives"]
        )
        vectors = self.decoder.bank.gather(vector_ids)
        logits = self.log_scale.exp() * (adapted @ vectors.T).float()
        logits = logits.masked_fill(is_right(vector_ids, batch.own_vectors), -torch.inf)
        right = is_right(self.miner.owners(vector_ids), batch.targets)
        return listwise_loss(logits, right, torch.ones_like(right))

    def _reranker_loss(self, reranker: ListwiseReranker, batch: Batch, adapted: Tensor) -> Tensor:
        """Return the listwise loss over the candidates that were mined for the batch's queries."""
        mined, found = self.miner.candidates(batch, adapted)
        logits = self.decoder.scorer.logits(
            reranker,
            batch.queries[mined],
            adapted[mined],
            found,
            exclude_vectors=batch.own_vectors[mined],
        )
        right = is_right(found.phrase_ids, batch.targets[mined])
        return listwise_loss(logits, right, self.miner.is_asked_for(found.phrase_ids))

    def validation_step(self, batch: Batch) -> None:
        """Ranks the right phrases with the decoder, and the first time with plain search."""
        self._rank(batch, "decoder")
        if not self._baseline_is_known:
            self._rank_baseline(batch)

    def on_validation_start(self) -> None:
        """Measure in float32 after training."""
        self._check_weights()
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_start()

    def on_test_start(self) -> None:
        """Test the decoder that was saved, which is in float32 wherever it is used."""
        self.float()

    def test_step(self, batch: Batch) -> None:
        """Ranks the right phrases with the decoder, and with plain search."""
        self._rank(batch, "decoder")
        self._rank_baseline(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/decoder/…``, and the first time ``val/baseline/…``, which never changes."""
        self._log_metrics("val")
        self._baseline_is_known = not self.trainer.sanity_checking

    def on_test_epoch_end(self) -> None:
        """Log ``test/baseline/…`` (where query and bank have one width) and ``test/decoder/…``."""
        self._log_metrics("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what ``PhraseBankDecoder.from_checkpoint`` needs, and where the run was."""
        checkpoint["decoder"] = self.decoder.recipe()
        checkpoint["accelerator_plan"] = self.accelerator_plan

    @property
    def miner(self) -> CandidateMiner:
        """The miner of the running fit."""
        assert self._miner is not None  # noqa: S101 - mining starts with fit
        return self._miner

    @property
    def _datamodule(self) -> DecoderDataModule:
        """The Trainer's data."""
        datamodule: DecoderDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return datamodule

    def _check_weights(self) -> None:
        """Refuse weights that training has spoiled.

        Raises:
            ConfigError: A weight is no finite number any more.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.state_dict().values()):
            raise ConfigError.unexpected(
                "training.lr",
                "one at which weights stay finite numbers",
                self.hparams["lr"],
                advice="Lower it, or set trainer.gradient_clip_val=1",
            )

    def _rank(self, batch: Batch, system: System) -> None:
        """Keep query ids and best ranks of a batch, (b, 2)."""
        decoder = self.decoder if system == "decoder" else self.baseline
        with torch.autocast(self.device.type, enabled=False):  # as the saved decoder ranks
            ranks = decoder.ranks(batch.queries, batch.targets, exclude_vectors=batch.own_vectors)
        best = ranks.masked_fill(ranks == 0, torch.iinfo(ranks.dtype).max).amin(dim=1)
        best = best.masked_fill((ranks == 0).all(dim=1), 0)
        self._ranks[system].append(torch.stack([batch.query_ids, best], dim=1))

    def _rank_baseline(self, batch: Batch) -> None:
        """Return the same with plain search, where query and bank have one width."""
        if batch.queries.shape[1] == self.decoder.bank.dim:
            self._rank(batch, "baseline")

    def _log_metrics(self, split: str) -> None:
        """Log the metrics of all queries, each counted once however it was sampled."""
        for system, batches in self._ranks.items():
            if not batches:
                continue
            every_rank = cast("Tensor", self.all_gather(torch.cat(batches)))
            gathered = every_rank.reshape(-1, 2).cpu().numpy()
            _, first = np.unique(gathered[:, 0], return_index=True)
            for name, value in ranking_metrics(gathered[first, 1]).items():
                metric = f"{split}/{system}/{name}"
                self.log(
                    metric,
                    float(value),
                    prog_bar=metric == "val/decoder/mrr",
                    sync_dist=True,  # every rank has the same value already
                )
            batches.clear()


def _scalars(part: nn.Module | None) -> list[nn.Parameter]:
    """Return the part's scales and shares, which have a longer way to go than single weights."""
    return [parameter for parameter in _parameters(part) if parameter.ndim == 0]


def _matrices(part: nn.Module | None) -> list[nn.Parameter]:
    """Return the part's other parameters."""
    return [parameter for parameter in _parameters(part) if parameter.ndim > 0]


def _parameters(part: nn.Module | None) -> list[nn.Parameter]:
    """Return the part's parameters, none where it is switched off."""
    return [] if part is None else list(part.parameters())
