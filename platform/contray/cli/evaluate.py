"""contray eval and distill: what an encoder is worth."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import UserError, nearest
from ..pictures import check_out
from .options import METHOD_HELP, Positional, arg, config_from, parse

if TYPE_CHECKING:
    from ..config import RunConfig

EVALUATIONS = ("linear", "knn", "finetune", "supervised", "detection", "segmentation", "geometry")
DENSE = ("detection", "segmentation")
LINEAR = {"cached": "linear", "paper": "paper", "last_n": "last_n", "attentive": "attentive"}


def evaluate(words: list[str]) -> int:
    """contray eval"""

    @dataclass(frozen=True)
    class Options:
        """Measure an encoder on the test set; what is chosen is chosen on held-out training data. With --run the numbers join that MLflow run."""

        evaluation: Annotated[
            Positional[str],
            arg(
                "linear (probes of frozen features), knn, finetune (the whole network on a part of the labels, beside the same network "
                "from scratch), supervised (the same backbone, data and steps, trained with all labels), detection or segmentation (a ResNet "
                "encoder under torchvision's heads, beside the same network untrained and supervised), or geometry (without labels)",
                choices=EVALUATIONS,
            ),
        ]
        protocol: Annotated[
            str,
            arg(
                "linear: cached (features once, a grid of probes at once, beside the untrained encoder and raw pixels); paper (random crops, "
                "SGD or LARS, 90 epochs); last_n (class tokens of a ViT's last blocks); attentive (a query over the tokens)"
            ),
        ] = "cached"
        labels: Annotated[
            str,
            arg("finetune: a fraction of the labels such as 0.01, or 10-per-class; the same images for every method and seed"),
        ] = "1.0"
        head: Annotated[
            str,
            arg(
                "detection: fpn (Faster R-CNN on a feature pyramid), c4 (the head of MoCo's papers) or mask (Mask R-CNN on a pyramid); "
                "segmentation: fcn or deeplab (v3) [default: fpn, fcn]. Their schedule on VOC: --eval.dense_steps 24000 --eval.dense_size 800 "
                "--eval.dense_proposals 512, batch 16, rate 0.02"
            ),
        ] = ""
        data: Annotated[
            str,
            arg(
                "detection and segmentation: scenes (the built-in digits on textures), or a folder in COCO's format: train.json and val.json, "
                "or annotations/instances_train*.json and instances_val*.json, with the images"
            ),
        ] = "scenes"
        supervised: Annotated[
            str,
            arg(
                "detection and segmentation, the supervised backbone: train (with the labels of the run's data, in as many steps), a "
                "checkpoint or imported encoder of the same network, or none"
            ),
        ] = "train"
        run: Annotated[str, arg("MLflow run whose encoder is measured")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, or a run's folder (its newest checkpoint)")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        out: Annotated[Path, arg("geometry: the picture to write")] = Path("similarities.png")

    def keys(plain: list[str]) -> "RunConfig":
        return config_from("", "", None, {})

    options, dotted = parse(Options, words, "eval", keys)
    if options.evaluation not in EVALUATIONS:
        raise UserError(f"eval {options.evaluation}: no such evaluation; {', '.join(EVALUATIONS[:-1])} or {EVALUATIONS[-1]}")
    if options.protocol not in LINEAR:
        raise UserError(f"--protocol: got {options.protocol!r}; {nearest(options.protocol, LINEAR)}")
    if options.protocol != "cached" and options.evaluation != "linear":
        raise UserError(f"--protocol: {options.protocol} is a protocol of eval linear, not of eval {options.evaluation}")
    if options.labels != "1.0" and options.evaluation != "finetune":
        raise UserError(f"--labels: {options.labels} is of eval finetune, not of eval {options.evaluation}")
    for name, default in (("head", ""), ("data", "scenes"), ("supervised", "train")):
        if getattr(options, name) != default and options.evaluation not in DENSE:
            raise UserError(
                f"--{name}: {getattr(options, name)} is of eval detection and segmentation, not of eval {options.evaluation}"
            )
    if options.evaluation in DENSE:
        return _dense(options, dotted)
    protocol = LINEAR[options.protocol] if options.evaluation == "linear" else options.evaluation
    check_out(options.out)
    from ..api import evaluate as run_evaluation
    from .report import show_geometry, show_metrics

    metrics = run_evaluation(
        (protocol,),
        run=options.run,
        checkpoint=options.checkpoint,
        method=options.method,
        overrides=dotted,
        labels=options.labels,
        out=options.out,
        quiet=False,
    )
    if protocol == "geometry":
        show_geometry(metrics)
        print(f"wrote {options.out}")
    else:
        show_metrics(metrics)
    return 0


def _dense(options: Any, dotted: dict[str, list[str]]) -> int:
    from ..api import evaluate_dense
    from .report import show_dense

    metrics = evaluate_dense(
        options.evaluation, options.head, run=options.run, checkpoint=options.checkpoint, method=options.method, place=options.data,
        supervised=options.supervised, overrides=dotted, quiet=False,
    )  # fmt: skip
    show_dense(metrics)
    return 0


def distill(words: list[str]) -> int:
    """contray distill"""

    @dataclass(frozen=True)
    class Options:
        """Fine-tune a run's encoder on a part of the labels; then it teaches a student by what it says of all images.

        backbone.* keys are the student's, such as --backbone.width 8; without any it is the teacher's own network, untrained. Beside it:
        the same student trained on the labels alone, from scratch and, with --student-run, from its own pretraining.
        """

        run: Annotated[str, arg("MLflow run whose encoder teaches; the numbers join it")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, or a run's folder (its newest checkpoint)")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        labels: Annotated[str, arg("labels that the teacher gets: a fraction such as 0.01, or 10-per-class")] = "0.1"
        by: Annotated[
            str,
            arg(
                "soft_labels (SimCLR v2: the teacher's class probabilities), crd (its features too, contrasted with the student's) or "
                "noisy_student (self-training in rounds, under noise); their keys are eval.distill_*, eval.crd_* and eval.noisy_*"
            ),
        ] = "soft_labels"
        student_run: Annotated[
            str, arg("MLflow run of a student pretrained by itself: its own fine-tuning is measured too; eval.distill_start")
        ] = ""
        student_checkpoint: Annotated[str, arg("the same from a checkpoint file or a run's folder")] = ""

    def keys(plain: list[str]) -> "RunConfig":
        return config_from("", "", None, {})

    options, dotted = parse(Options, words, "distill", keys)
    from ..api import evaluate as run_evaluation
    from .report import show_metrics

    metrics = run_evaluation(
        ("distill",), run=options.run, checkpoint=options.checkpoint, method=options.method, overrides=dotted, labels=options.labels, by=options.by,
        student_run=options.student_run, student_checkpoint=options.student_checkpoint, quiet=False,
    )  # fmt: skip
    show_metrics(metrics)
    return 0


EXAMPLES = {
    "eval": (
        ("contray eval linear --run RUN_ID", "probes of frozen features, beside the untrained encoder and raw pixels"),
        ("contray eval finetune --labels 0.01 --checkpoint contray_runs/RUN", "on 1 % of the labels, beside from scratch"),
        ("contray eval knn --run RUN_ID --data.source other_photos/", "on other data; the numbers join the run"),
    ),
    "distill": (
        ("contray distill --labels 0.01 --run RUN_ID", "fine-tuned on 1 % of the labels, it teaches itself"),
        ("contray distill --labels 0.1 --run RUN_ID --backbone.width 8", "a smaller student"),
        ("contray distill --by noisy_student --checkpoint contray_runs/RUN", "self-training in rounds, under noise"),
    ),
}
FEW = {
    "eval": ("data.source", "data.label_column", "eval.holdout", "eval.batch_size", "train.device", "track.uri"),
    "distill": ("backbone.name", "backbone.width", "data.source", "data.label_column", "train.device", "track.uri"),
}
