"""Fields of other servers and clients, and what becomes of one that this server does not have.

One rule for every body. A field is done, or it asks for nothing, or it cannot change the answer, or
the request is refused by the field's name: nobody gets a text that a setting of theirs did not
reach. Null always means absent.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    "say who asks, or for what": _names(
        "user metadata store service_tier safety_identifier request_id rid session_id chat_id id "
        "parent_id user_message model_item background_tasks filter_ids tool_servers params "
        "features variables api_type api_server legacy_api provider"
    ),
    "are about speed, memory or order of work": _names(
        "prompt_cache_key prompt_cache_retention prediction priority cache_salt cache_prompt "
        "id_slot n_cache_reuse backend_sampling speculative_ngram speculative.n_max "
        "speculative.n_min speculative.p_min guided_decoding_backend keep_alive"
    ),
    "are about parts of an answer that there are none of": _names(
        "timings_per_token return_progress reasoning_format include_reasoning separate_reasoning "
        "stream_reasoning"
    ),
    "shape what is off unless another field turns it on": _names(
        "mirostat_tau mirostat_eta dry_base dry_allowed_length dry_penalty_last_n dry_range "
        "dry_sequence_breakers xtc_threshold dynatemp_low dynatemp_high dynatemp_exponent min_temp "
        "max_temp smoothing_curve adaptive_decay repeat_last_n rep_pen_range rep_pen_size "
        "rep_pen_slope repetition_penalty_range repetition_decay negative_prompt length_penalty "
        "early_stopping spaces_between_special_tokens"
    ),
    "say what to do with a prompt that is too long, which is refused here": _names(
        "num_ctx truncation_length max_context_length n_keep n_discard"
    ),
}
"""Fields that every body takes with any value, by the reason why they change nothing."""


def _keeps_our_order(value: object) -> bool:
    """Whether a list of samplers applies those that there are in our order."""
    ours = ["top_k", "top_p", "min_p", "temperature"]
    return isinstance(value, list) and [s for s in value if s in ours] == ours


def _is_negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0


_OFF = (0, False)

NO_OPS: Final[Mapping[str, tuple[object, ...] | Callable[[object], bool]]] = {
    # Repetition
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "rep_pen"), (1,)),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": _OFF,
    "penalty_alpha": _OFF,
    "dry_multiplier": _OFF,
    "penalize_nl": (False,),
    # Which tokens may be drawn
    **dict.fromkeys(("typical_p", "typical", "typ_p", "tfs", "tfs_z"), (1,)),
    **dict.fromkeys(("top_a", "epsilon_cutoff", "eta_cutoff", "skew", "smoothing_factor"), _OFF),
    **dict.fromkeys(("nsigma", "top_n_sigma"), (0, -1)),
    "min_keep": (0, 1),
    "xtc_probability": _OFF,
    **dict.fromkeys(("mirostat", "mirostat_mode"), _OFF),
    **dict.fromkeys(("dynatemp_range", "dynamic_temperature"), _OFF),
    "adaptive_target": _is_negative,
    "temperature_last": (True,),
    **dict.fromkeys(("samplers", "sampler_priority"), _keeps_our_order),
    **dict.fromkeys(("guidance_scale", "cfg_scale"), (1,)),
    "do_sample": (True,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "best_of": (1,),
    **dict.fromkeys(
        ("allowed_token_ids", "bad_words", "banned_tokens", "banned_strings", "custom_token_bans"),
        (),
    ),
    **dict.fromkeys(("logits_processors", "custom_logit_processor", "sampler_order"), ()),
    # Where the answer ends
    **dict.fromkeys(("min_tokens", "min_new_tokens", "min_length"), _OFF),
    **dict.fromkeys(("stop_token_ids", "stop_regex"), ()),
    "ban_eos_token": (False,),
    **dict.fromkeys(("include_stop_str_in_output", "no_stop_trim"), (False,)),
    **dict.fromkeys(("t_max_predict_ms", "max_tokens_second", "n_indent"), _OFF),
    # What is read and written
    "add_bos_token": (True,),
    "skip_special_tokens": (True,),
    "detokenize": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "n_probs": _OFF,
    **dict.fromkeys(
        ("return_token_ids", "return_tokens_as_token_ids", "return_tokens", "post_sampling_probs"),
        (False,),
    ),
    "return_hidden_states": (False,),
    **dict.fromkeys(("image_data", "documents", "mm_processor_kwargs", "response_fields"), ()),
    **dict.fromkeys(("grammar_string", "regex", "ebnf", "guided_whitespace_pattern"), ()),
    **dict.fromkeys(("lora_path", "vllm_xargs", "kv_transfer_params", "extra_body", "options"), ()),
    "format": (),
    # Reasoning, of which there is none
    "reasoning_effort": ("none",),
    "reasoning_budget": (0, -1),
    **dict.fromkeys(("enable_thinking", "think"), (False,)),
    "thinking": ({"type": "disabled"},),
    "reasoning": ({"effort": "none"}, {"enabled": False}),
    "verbosity": ("medium",),
}
"""Fields that would change the answer, each with the values that ask for nothing.

Null and what is empty ask for nothing in all of them.
"""

SYNONYMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_length"), "max_tokens"),
    **dict.fromkeys(("stop_sequence", "stop_sequences", "stopping_strings"), "stop"),
    "sampler_seed": "seed",
}
"""Fields that clients send beside the one that they mean here, with the same value."""

_HARMLESS = frozenset().union(*HARMLESS.values())


def described() -> str:
    """The rule, and the fields that it names, in Markdown."""
    lines = [
        "A field that a body does not have is refused by its name, unless it is null or is here:",
        "",
        *(f"- {_listed(names)} {reason}." for reason, names in HARMLESS.items()),
        f"- {_listed(SYNONYMS)} may repeat the field that they mean.",
        f"- {_listed(NO_OPS)} may have a value that asks for nothing.",
    ]
    return "\n".join(lines)


def refusal(
    name: str, given: Mapping[str, Any], known: Collection[str], harmless: Collection[str]
) -> str | None:
    """Why a field that is not among the `known` ones cannot be taken; None where it can.

    Args:
        name: The field.
        given: The object that holds it.
        known: Fields that the object may have.
        harmless: Further fields that change nothing in it.
    """
    value = given[name]
    if value is None or name in harmless:
        return None
    return _near(name, known)


def refusal_in_request(
    name: str, given: Mapping[str, Any], known: Collection[str], harmless: Collection[str]
) -> str | None:
    """The same for the body of a request that computes, which other servers have fields for."""
    value = given[name]
    if value is None or name in harmless or name in _HARMLESS:
        return None
    if name in SYNONYMS:
        meant = SYNONYMS[name]
        return None if given.get(meant) == value else f"is called {meant!r} here"
    if name in NO_OPS:
        return None if _asks_for_nothing(value, NO_OPS[name]) else _not_supported(NO_OPS[name])
    return _near(name, known)


def _near(name: str, known: Collection[str]) -> str:
    # A name can be as long as the body; comparing takes the product of the lengths.
    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"is not a field that this server knows{hint}"


def _asks_for_nothing(
    value: object, harmless: tuple[object, ...] | Callable[[object], bool]
) -> bool:
    if value in ("", [], {}):
        return True
    return harmless(value) if callable(harmless) else value in harmless


def _not_supported(harmless: tuple[object, ...] | Callable[[object], bool]) -> str:
    if callable(harmless) or not harmless:
        return "is not supported by this server"
    return f"is not supported by this server; only {harmless[0]!r}, which changes nothing, is"


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
