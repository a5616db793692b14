"""Base class of typed options, and options shared by all pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from embedding_adaptation.cluster.settings import ClusterSettings, require_ray
from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.device import DeviceName, DtypeName
from embedding_adaptation.embedder.pooling import ATTENTION_POOLINGS, PoolingName
from embedding_adaptation.embedder.strategy import Combination, Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.identity import base_twin, canonical, digest_of
from embedding_adaptation.paths import project_path

RANDOM_STRATEGY = "random"


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, (str, int)) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Layers = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]


Granularity = Literal["fine", "medium", "coarse"]


class Grain(NamedTuple):
    """What a granularity means for the teacher and for the loss that learns from it.

    Attributes:
        neighbours: Number of nearest neighbours that the teacher averages each vector with.
        rounds: How often.
        perplexity: Effective number of a text's neighbours in a batch.
    """

    neighbours: int
    rounds: int
    perplexity: float


GRANULARITIES: Mapping[Granularity, Grain] = {"fine": Grain(3, 1, 6.0), "medium": Grain(10, 2, 12.0), "coarse": Grain(30, 3, 30.0)}


class Options(BaseModel):
    """Options of a pipeline: read-only; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:
        """Check options against the rest of the project, before a run that uses them starts.

        Args:
            embedder: The templates and strategies of the run.
            is_there: Tells whether a dataset, given by name, exists.

        Raises:
            ValueError: If the options name something that does not exist; the message says what to change.
        """


class ServerOptions(Options):
    """A server for OpenAI's chat protocol (vLLM, Ollama, TGI, transformers serve); its key comes from Kedro's credentials."""

    url: str = Field(
        pattern=r"^https?://[^@]+$", description="Address up to and including /v1, such as http://localhost:8000/v1; no password."
    )
    model: str = Field(min_length=1, description="The model's name on the server.")
    concurrency: int = Field(8, ge=1, description="Number of concurrent requests.")
    timeout: float = Field(60.0, gt=0.0, description="Seconds after which a request counts as failed.")
    retries: int = Field(5, ge=0, description="How often a failed request is retried, with increasing delays.")


class TemplateOptions(Options):
    """A template with settings for special tokens."""

    pattern: str = Field(description="The prompt, with one {text} slot.")
    bos: bool | Literal["auto"] = Field("auto", description="Whether to prepend a start token; auto does what the model was trained with.")
    eos: bool = Field(False, description="Whether to append an end token.")


class AfterOptions(Options):
    """After-processing of pooled vectors; everything except truncation is fitted on the corpus."""

    centre: float = Field(0.0, ge=0.0, le=1.0, description="Subtract this share of the corpus's mean vector; true is all of it.")
    remove_components: int = Field(0, ge=0, description="Remove this many of the corpus's strongest principal components.")
    whiten: bool = Field(False, description="Equalise the variance of the corpus's principal components.")
    distil: bool = Field(False, description="Map vectors linearly to the teacher's (embedder.teacher), fitted on the corpus; also centres.")
    dimensions: int | None = Field(
        None, ge=1, description="Keep this many dimensions (of distilled or concatenated vectors, the principal ones); null keeps all."
    )

    @property
    def steps(self) -> AfterSteps:
        """The steps as the library's type, without distilling, whose strength is the teacher's."""
        return AfterSteps(self.centre, self.remove_components, self.whiten, self.dimensions)

    @property
    def title(self) -> str:
        """A short name: the steps, joined by plus signs; empty if there are none."""
        parts = (
            self._centre_title if not self.remove_components and not self.whiten else "",
            f"remove{self.remove_components}" if self.remove_components else "",
            "whiten" * self.whiten,
            "distil" * self.distil,
            f"first{self.dimensions}" if self.dimensions else "",
        )
        return "+".join(part for part in parts if part)

    @property
    def _centre_title(self) -> str:
        return f"centre{self.centre:g}" if 0 < self.centre < 1 else "centre" * bool(self.centre)


class TeacherOptions(Options):
    """The views of a corpus that strategies learn from, in training and by ``after: {distil: true}``: base weights and words, no labels."""

    strategy: str = Field("consensus", description="Strategy of the base weights; its after-processing is fitted on the same texts.")
    words: float = Field(0.5, ge=0.0, le=10.0, description="Weight of the texts' words (TF-IDF) beside the strategy; 0 leaves them out.")
    granularity: Granularity = Field(
        "medium", description="How coarsely texts are told apart: fine suits many small groups (intents), coarse a few large ones (topics)."
    )
    neighbours: int | None = Field(
        None, ge=1, description="Each vector is averaged with this many nearest neighbours; null takes the granularity's."
    )
    rounds: int | None = Field(None, ge=0, le=10, description="How often; more makes a coarser teacher; null takes the granularity's.")
    ridge: float = Field(
        1.0, gt=0.0, description="Penalty of the linear map to the teacher; the higher, the closer it stays to the vectors."
    )

    @property
    def steps(self) -> dict[str, Any]:
        """The arguments of :func:`~embedding_adaptation.vectors.teacher.teacher_vectors`."""
        grain = GRANULARITIES[self.granularity]
        return {
            "words": self.words,
            "neighbours": grain.neighbours if self.neighbours is None else self.neighbours,
            "rounds": grain.rounds if self.rounds is None else self.rounds,
        }

    @property
    def perplexity(self) -> float:
        """Effective number of a text's neighbours in a batch, which the granularity asks for."""
        return GRANULARITIES[self.granularity].perplexity


class StrategyOptions(Options):
    """A strategy: the weights, the template, and how token vectors become one vector."""

    weights: Literal["base", "adapted"] = Field(description="Before or after fine-tuning.")
    template: Names = Field(min_length=1, description="Name of a template, or several names to combine their vectors.")
    combine: Combination = Field("mean", description="How vectors of several templates are combined: mean, or concatenate (side by side).")
    pooling: PoolingName = Field(description="How token vectors become one vector.")
    layers: Layers = Field((-1,), min_length=1, description="Hidden state, or several to average; -1 is the last, 0 the embeddings.")
    normalise: bool = Field(True, description="Scale vectors to unit length.")
    attention_layers: Layers = Field((), description="For attention_weighted: layers to average attention over; empty uses layers.")
    attention_heads: Layers = Field((), description="For attention_weighted: heads, counted from 0; empty uses all.")
    after: AfterOptions = Field(AfterOptions(), description="After-processing of the pooled vectors.")

    @property
    def title(self) -> str:
        """The template's name, or the names of several."""
        return " + ".join(self.template)


class GridOptions(Options):
    """Every combination of the given values is a strategy, named ``template.pooling.layer`` (and ``.adapted``, and what comes after)."""

    weights: tuple[Literal["base", "adapted"], ...] = Field(("base",), min_length=1, description="Before or after fine-tuning, or both.")
    templates: tuple[str, ...] = Field(min_length=1, description="Names of templates.")
    poolings: tuple[PoolingName, ...] = Field(("last",), min_length=1, description="Poolings.")
    layers: tuple[Layers, ...] = Field(((-1,),), min_length=1, description="Layers: each a number, or a list to average.")
    after: tuple[AfterOptions, ...] = Field((AfterOptions(),), min_length=1, description="After-processing of the pooled vectors.")

    @property
    def strategies(self) -> dict[str, StrategyOptions]:
        """The strategies by name."""
        named = {}
        for weights in self.weights:
            for template in self.templates:
                for pooling in self.poolings:
                    for layers in self.layers:
                        for after in self.after:
                            parts = [template, pooling, "+".join(map(str, layers)), "adapted" * (weights == "adapted"), after.title]
                            named[".".join(part for part in parts if part)] = StrategyOptions(
                                weights=weights, template=(template,), pooling=pooling, layers=layers, after=after
                            )
        return named


class ClusterOptions(Options):
    """Cleaning, rewriting, embedding and training on a Ray cluster, for which the extra ``cluster`` is needed."""

    folder: str = Field(min_length=1, description="Folder for blocks of texts and vectors; every machine sees it under the same path.")
    address: str | None = Field(
        None, min_length=1, description="Address of the cluster; null takes RAY_ADDRESS, or starts one on this machine for the run."
    )
    workers: int | None = Field(None, ge=1, description="Models at work; null: one for each GPU, or else for every threads CPU cores.")
    threads: int = Field(1, ge=1, description="CPU cores of a worker that has no GPU.")
    min_texts: int = Field(
        2000, ge=1, description="Fewer texts are embedded by the process itself; of rewrites 1/20 of it, to clean 250 times it."
    )
    block_texts: int = Field(
        512, ge=1, description="Most texts in a block: what each worker may lose when a machine dies; rewrites: a quarter as many."
    )
    block_mb: float = Field(16.0, gt=0.0, description="Most megabytes of text in a block.")
    store_mb: int = Field(256, ge=80, description="Megabytes of Ray's object store on this machine; only names of blocks go through it.")

    @property
    def settings(self) -> ClusterSettings:
        """The options as the library's type."""
        return ClusterSettings(**self.model_dump() | {"folder": project_path(self.folder)})


class EmbedderOptions(Options):
    """How texts become vectors, in every pipeline."""

    device: DeviceName = Field("auto", description="auto uses CUDA, else MPS, else the CPU.")
    dtype: DtypeName = Field("auto", description="auto measures float32, bfloat16 and int8, and takes the fastest that keeps the vectors.")
    max_length: int = Field(256, ge=8, description="Longest sequence in tokens, including the prompt; only the text is truncated.")
    batch_tokens: int | None = Field(None, ge=8, description="Tokens per batch; null chooses a value for the device.")
    templates: dict[str, str | TemplateOptions] = Field(min_length=1, description="Named templates, each with one {text} slot.")
    strategies: dict[str, StrategyOptions] = Field(min_length=1, description="Named strategies to extract and compare.")
    grid: GridOptions | None = Field(None, description="More strategies: every combination of templates, poolings and layers.")
    teacher: TeacherOptions = TeacherOptions()
    cluster: ClusterOptions | None = Field(None, description="Work on many texts, and train, on a Ray cluster; null: in this process.")
    adapt: str = Field(description="The strategy whose template and pooling fine-tuning trains and attention analysis examines.")

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  the signature of all options
        """Check that Ray is installed if the options need it; see :meth:`Options.check`."""
        if self.cluster is not None:
            require_ray()

    @property
    def every_strategy(self) -> dict[str, StrategyOptions]:
        """The named strategies and the grid's."""
        return self.strategies | (self.grid.strategies if self.grid else {})

    @property
    def undistilled_base(self) -> list[str]:
        """Names of the strategies that owe nothing to training or to a teacher: base weights, and not distilled."""
        return [name for name, strategy in self.every_strategy.items() if strategy.weights == "base" and not strategy.after.distil]

    def template(self, name: str) -> PromptTemplate:
        """The template of that name."""
        options = self.templates[name]
        if isinstance(options, str):
            return PromptTemplate(name, options)
        return PromptTemplate(name, options.pattern, bos=options.bos, eos=options.eos)

    def strategy(self, name: str, chosen: StrategyOptions) -> Strategy:
        """A strategy as the library's type, without after-processing, which must be fitted first."""
        templates = tuple(self.template(template) for template in chosen.template)
        return Strategy(
            name,
            templates[0] if len(templates) == 1 else templates,
            chosen.pooling,
            layers=chosen.layers,
            normalise=chosen.normalise,
            attention_layers=chosen.attention_layers,
            attention_heads=chosen.attention_heads,
            combine=chosen.combine,
        )

    def definition(self, name: str) -> dict[str, Any]:
        """The definition of a strategy, for JSON; equal definitions mean the same strategy, whatever names it and its templates have."""
        options = self.every_strategy[name]
        defined = options.model_dump(mode="json") | {"template": [canonical(self.template(template)) for template in options.template]}
        if options.after.distil:
            defined["teacher"] = self.teacher_definition
        return defined

    @property
    def teacher_definition(self) -> dict[str, Any]:
        """The definition of the teacher, for JSON."""
        return {
            **self.teacher.steps,
            "ridge": self.teacher.ridge,
            "strategy": self.definition(self.teacher.strategy),
            "of_adapted": "base and adapted weights",  # the rule of runtime.teacher_targets: vectors by another are not reused
        }

    @property
    def identities(self) -> dict[str, str]:
        """Identity of each strategy by name; with the weights and the texts that after-processing is fitted on, it identifies vectors."""
        return {name: digest_of([self.definition(name), self.max_length]) for name in self.every_strategy}

    def base_twin(self, name: str, among: Iterable[str]) -> str | None:
        """Which of some strategies differs from an adapted one only in its weights; ``None`` if there is none."""
        every = self.every_strategy
        return base_twin(name, {other: self.definition(other) for other in (name, *among) if other in every})

    def check_strategies(self, strategies: Mapping[str, StrategyOptions]) -> None:
        """Check that strategies name existing templates, and that their settings are compatible.

        Raises:
            ValueError: If they do not.
        """
        for name, strategy in strategies.items():
            for template in strategy.template:
                if template not in self.templates:
                    msg = f"unknown template {template!r} in strategy {name!r}; choose from {', '.join(self.templates)}"
                    raise ValueError(msg)
            self.strategy(name, strategy)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.templates:
            self.template(name)
        self.check_strategies(self.every_strategy)
        if self.adapt not in self.strategies:
            msg = f"unknown strategy {self.adapt!r} in adapt; choose from {', '.join(self.strategies)}"
            raise ValueError(msg)
        adapted = self.strategies[self.adapt]
        if len(adapted.template) > 1 or adapted.layers != (-1,) or adapted.pooling in ATTENTION_POOLINGS:
            msg = (
                f"strategy {self.adapt!r} in adapt cannot be trained: training needs one template, the last layer and a pooling without "
                f"attention, and this one has {adapted.title}, layers {list(adapted.layers)} and {adapted.pooling}; choose another"
            )
            raise ValueError(msg)
        learned = [name for name, strategy in self.every_strategy.items() if strategy.after.distil]
        usable = self.undistilled_base
        if learned and self.teacher.strategy not in usable:
            msg = (
                f"unknown strategy {self.teacher.strategy!r} in embedder.teacher, which {learned[0]!r} is distilled from; choose one of "
                f"the base weights that is not distilled itself ({', '.join(usable) or 'there is none'})"
            )
            raise ValueError(msg)
        if RANDOM_STRATEGY in self.strategies:
            msg = f"the strategy name {RANDOM_STRATEGY!r} is reserved for the random vectors in every comparison; choose another"
            raise ValueError(msg)
        return self


def chosen_names(patterns: Iterable[str] | None, names: Iterable[str], setting: str) -> list[str]:
    """Select names by patterns, in the order of the names.

    Args:
        patterns: Names, or patterns with ``*``; ``None`` selects all.
        names: The existing names.
        setting: Where the patterns come from, for the message.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    names = list(names)
    if patterns is None:
        return names
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            msg = f"unknown strategy {pattern!r} in {setting}; choose from {', '.join(names)}"
            raise ValueError(msg)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
