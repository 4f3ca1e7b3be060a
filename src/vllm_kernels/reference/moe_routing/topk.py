"""References of routing: the experts of each token and their weights."""

from __future__ import annotations

import torch


def _finite_or_0(scores: torch.Tensor) -> torch.Tensor:
    return torch.where(scores.isfinite(), scores, 0.0)


def _best(choices: torch.Tensor, topk: int) -> torch.Tensor:
    """The columns of the largest values, best first; of equal ones the lower first, NaN last."""
    ordered = torch.where(choices.isnan(), float("-inf"), choices) + 0.0
    return ordered.sort(dim=-1, descending=True, stable=True).indices[:, :topk]


def _softplus_sqrt(wide: torch.Tensor) -> torch.Tensor:
    return (wide.clamp_min(0) + torch.log1p(torch.exp(-wide.abs()))).sqrt()


def _scaled(weights: torch.Tensor, renormalize: bool, factor: float) -> torch.Tensor:
    if not renormalize:
        return weights * factor
    total = weights.sum(-1, keepdim=True)
    return weights * (factor / torch.where(total > 0, total, 1.0))


def _route(
    topk_weights: torch.Tensor,
    topk_indices: torch.Tensor,
    token_expert_indices: torch.Tensor,
    scores: torch.Tensor,
    renormalize: bool,
    bias: torch.Tensor | None,
    factor: float,
    experts: torch.Tensor | None = None,
) -> None:
    tokens, topk = topk_weights.shape
    scores = _finite_or_0(scores)
    if experts is None:
        experts = _best(scores if bias is None else scores + bias.float(), topk)
    known = (experts >= 0) & (experts < scores.shape[1])
    chosen = torch.where(known, scores.gather(1, experts.where(known, 0)), 0.0)
    topk_weights.copy_(_scaled(chosen, renormalize, factor))
    topk_indices.copy_(experts)
    numbers = torch.arange(tokens * topk, device=topk_weights.device)
    token_expert_indices.copy_(numbers.view(topk, tokens).t())


def topk_softmax(
    topk_weights: torch.Tensor,
    topk_indices: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool,
    bias: torch.Tensor | None,
) -> None:
    """The topk experts of each token by softmax + bias, best first (Shazeer et al. 2017).

    Args:
        topk_weights: float32 [tokens, topk]; written: softmax of the chosen experts, without bias.
        topk_indices: int32, uint32 or int64 [tokens, topk]; written. Of equal experts the lower.
        token_expert_indices: int32 [tokens, topk]; written: rank * tokens + token.
        gating_output: [tokens, experts], float32, bfloat16 or float16; scores that are not finite
            count as 0.
        renormalize: Whether a token's weights are divided by their sum.
        bias: float32 [experts] or None; changes the choice only.
    """
    scores = gating_output.float().softmax(-1)
    _route(topk_weights, topk_indices, token_expert_indices, scores, renormalize, bias, 1.0)


def topk_sigmoid(
    topk_weights: torch.Tensor,
    topk_indices: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool,
    bias: torch.Tensor | None,
    routed_scaling_factor: float,
) -> None:
    """``topk_softmax`` with sigmoids for scores; weights times ``routed_scaling_factor``."""
    scores = gating_output.float().sigmoid()
    _route(
        topk_weights,
        topk_indices,
        token_expert_indices,
        scores,
        renormalize,
        bias,
        routed_scaling_factor,
    )


def topk_softplus_sqrt(
    topk_weights: torch.Tensor,
    topk_indices: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool,
    routed_scaling_factor: float,
    bias: torch.Tensor | None,
    input_ids: torch.Tensor | None,
    tid2eid: torch.Tensor | None,
) -> None:
    """``topk_sigmoid`` with sqrt(softplus) for scores.

    ``input_ids`` ([tokens]) and ``tid2eid`` ([vocabulary, topk]), int32 or int64, name the experts
    of each token where given; the bias then has no effect. A token whose id has no row in the table
    has the expert -1; experts that are none have weight 0.
    """
    if (input_ids is None) != (tid2eid is None):
        raise ValueError(
            "topk_softplus_sqrt: only one of input_ids and tid2eid is given, want both or neither"
        )
    scores = _softplus_sqrt(gating_output.float())
    experts = None
    if tid2eid is not None and input_ids is not None:
        ids = input_ids.long()
        listed = (ids >= 0) & (ids < len(tid2eid))
        named = tid2eid[ids.where(listed, 0)] if len(tid2eid) else topk_indices
        experts = torch.where(listed.unsqueeze(1), named.long(), -1)
    _route(
        topk_weights,
        topk_indices,
        token_expert_indices,
        scores,
        renormalize,
        bias,
        routed_scaling_factor,
        experts,
    )


def grouped_topk(
    scores: torch.Tensor,
    n_group: int,
    topk_group: int,
    topk: int,
    renormalize: bool,
    routed_scaling_factor: float,
    bias: torch.Tensor,
    scoring_func: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The topk experts of the ``topk_group`` best groups (DeepSeek-V3 technical report, 2024).

    Args:
        scores: [tokens, experts], float32, bfloat16 or float16.
        n_group: Groups of neighbouring experts; a group counts by the sum of its two best experts.
        topk_group: Groups to choose from.
        topk: Experts of a token.
        renormalize: Whether a token's weights are divided by their sum.
        routed_scaling_factor: Factor of the weights.
        bias: [experts]; changes the choice only.
        scoring_func: 0: scores as they are; 1: their sigmoid.

    Returns:
        Weights, float32, and experts, int32: [tokens, topk] each.
    """
    known = scores.float().sigmoid() if scoring_func == 1 else scores.float()
    known = _finite_or_0(known)
    choices = known + bias.float()
    tokens, experts_known = choices.shape
    groups = choices.reshape(tokens, n_group, experts_known // n_group)
    best_two = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1)
    chosen = torch.zeros_like(best_two, dtype=torch.bool)
    chosen.scatter_(1, _best(best_two, topk_group), value=True)
    allowed = chosen.repeat_interleave(groups.shape[-1], dim=-1)
    experts = _best(torch.where(allowed, choices, float("-inf")), topk)
    weights = _scaled(known.gather(1, experts), renormalize, routed_scaling_factor)
    return weights, experts.int()


def _scores(
    gating_output: torch.Tensor, scoring_func: str, allowed: tuple[str, ...]
) -> torch.Tensor:
    """[tokens, experts] float32; 0 where they are not finite."""
    if scoring_func not in allowed:
        raise NotImplementedError(
            f'scoring_func is "{scoring_func}", want {", ".join(allowed[:-1])} or {allowed[-1]}'
        )
    wide = gating_output.float()
    if scoring_func == "sigmoid":
        return _finite_or_0(wide.sigmoid())
    if scoring_func == "softmax":
        return _finite_or_0(wide.softmax(-1))
    return _finite_or_0(_softplus_sqrt(wide))


def _routed(
    scores: torch.Tensor, experts: torch.Tensor, renormalize: bool, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = scores.gather(1, experts.long())
    if renormalize:
        weights = _scaled(weights, True, factor)
    return weights, experts.int().contiguous()


def biased_topk_cpu(
    hidden_states: torch.Tensor,
    gating_output: torch.Tensor,
    correction_bias: torch.Tensor,
    topk: int,
    renormalize: bool,
    scoring_func: str,
    num_fused_shared_experts: int,
    routed_scaling_factor: float | None,
    apply_routed_scaling_factor_on_output: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The topk experts of each token by score + bias, best first, weighted without the bias.

    Args:
        hidden_states: [tokens, ...]; its values have no part.
        gating_output: [tokens, experts], float32, bfloat16 or float16; scores that are not finite
            count as 0.
        correction_bias: [experts], any of these dtypes; changes the choice only.
        topk: Experts of a token.
        renormalize: Whether a token's weights are divided by their sum, if that is above 0.
        scoring_func: "sigmoid", or "sqrtsoftplus": sqrt(log(1 + e^x)).
        num_fused_shared_experts: 0.
        routed_scaling_factor: Factor of renormalised weights; None: 1.
        apply_routed_scaling_factor_on_output: Whether it is applied.

    Returns:
        Weights, float32, and experts, int32, both [tokens, topk].
    """
    if num_fused_shared_experts:
        raise NotImplementedError(
            f"biased_topk_cpu: num_fused_shared_experts is {num_fused_shared_experts}, want 0"
        )
    if not 0 <= topk <= gating_output.shape[1]:
        raise ValueError(f"biased_topk_cpu: topk is {topk}, want 0 to {gating_output.shape[1]}")
    scores = _scores(gating_output, scoring_func, ("sigmoid", "sqrtsoftplus"))
    factor = routed_scaling_factor if apply_routed_scaling_factor_on_output else None
    experts = _best(scores + correction_bias.float(), topk)
    return _routed(scores, experts, renormalize, 1.0 if factor is None else factor)


def hash_topk_cpu(
    gating_output: torch.Tensor,
    tid2eid: torch.Tensor,
    topk: int,
    scoring_func: str,
    num_fused_shared_experts: int,
    num_experts: int,
    routed_scaling_factor: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of the experts that ``tid2eid`` ([tokens, topk], int32) names.

    As ``biased_topk_cpu``; always renormalised, but with the ``scoring_func`` "softmax", whose
    weights stay as they are.
    """
    if num_fused_shared_experts:
        raise NotImplementedError(
            f"hash_topk_cpu: num_fused_shared_experts is {num_fused_shared_experts}, want 0"
        )
    if gating_output.shape[1] != num_experts or tid2eid.shape[1] != topk:
        raise ValueError(
            f"hash_topk_cpu: tid2eid has shape {list(tid2eid.shape)} and gating_output "
            f"{list(gating_output.shape)}, want {topk} and {num_experts} columns"
        )
    scores = _scores(gating_output, scoring_func, ("sigmoid", "sqrtsoftplus", "softmax"))
    return _routed(scores, tid2eid, scoring_func != "softmax", routed_scaling_factor)
