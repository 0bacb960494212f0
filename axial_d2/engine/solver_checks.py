"""Values under SOLVER that no training can go by."""

from detectron2.config import CfgNode

from axial_d2.engine.errors import SetupError

_WARMUPS = ("constant", "linear")
_CLIPPINGS = ("full_model", "norm", "value")


def check_solver(cfg: CfgNode) -> None:
    """Refuses values of SOLVER that are out of range, whether what they belong to is on or not.

    Names of optimiser and schedule are checked where these are built.

    Args:
        cfg: SOLVER and TEST.PRECISE_BN are read.

    Raises:
        SetupError: the first mistake found; it names the key, what was expected and what came.
    """
    node = cfg.SOLVER
    for key, value in (
        ("ACCUMULATION_STEPS", node.ACCUMULATION_STEPS),
        ("LOOKAHEAD.STEPS", node.LOOKAHEAD.STEPS),
        ("CHECKPOINT_PERIOD", node.CHECKPOINT_PERIOD),
    ):
        _expect(value >= 1, key, "1 or more", value)
    # A negative limit of CLIP_TYPE value would make every gradient that limit.
    for key, value in (
        ("BASE_LR", node.BASE_LR),
        ("CLIP_GRADIENTS.CLIP_VALUE", node.CLIP_GRADIENTS.CLIP_VALUE),
    ):
        _expect(value > 0, key, "more than 0", value)
    for key, value in (
        ("MOMENTUM", node.MOMENTUM),
        ("POLY_LR_POWER", node.POLY_LR_POWER),
        ("WARMUP_ITERS", node.WARMUP_ITERS),
        ("WARMUP_FACTOR", node.WARMUP_FACTOR),
    ):
        _expect(value >= 0, key, "0 or more", value)
    alpha, decay = node.LOOKAHEAD.ALPHA, node.EMA.DECAY
    _expect(0.0 < alpha <= 1.0, "LOOKAHEAD.ALPHA", "more than 0 and at most 1", alpha)
    _expect(0.0 <= decay < 1.0, "EMA.DECAY", "0 or more and less than 1", decay)
    _expect(_is_decay(node.WEIGHT_DECAY), "WEIGHT_DECAY", "a number, 0 or more", node.WEIGHT_DECAY)
    for key in ("WEIGHT_DECAY_NORM", "WEIGHT_DECAY_TABLE"):
        right = node[key] is None or _is_decay(node[key])
        _expect(right, key, "a number, 0 or more, or None: as all others", node[key])
    _expect_one_of(_WARMUPS, "WARMUP_METHOD", node.WARMUP_METHOD)
    _expect_one_of(_CLIPPINGS, "CLIP_GRADIENTS.CLIP_TYPE", node.CLIP_GRADIENTS.CLIP_TYPE)
    if node.OPTIMIZER.upper() == "SGD" and node.NESTEROV:
        _expect(node.MOMENTUM > 0, "MOMENTUM", "more than 0 with SOLVER.NESTEROV", node.MOMENTUM)
    if node.EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise SetupError(
            "TEST.PRECISE_BN.ENABLED: expected False with SOLVER.EMA.ENABLED, got True: the "
            "statistics would be those of the weights that are not evaluated"
        )


def _is_decay(value: object) -> bool:
    # With None as default or as value the merging of configs takes values of every type.
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _expect(right: bool, key: str, expected: str, came: object) -> None:
    if not right:
        raise SetupError(f"SOLVER.{key}: expected {expected}; got {came}")


def _expect_one_of(names: tuple[str, ...], key: str, came: str) -> None:
    _expect(came in names, key, f"one of {', '.join(names)}", came)
