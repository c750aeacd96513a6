"""The registry of error codes: each with its HTTP status, its title and what to do. One page per code is served."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A stable code as clients see it. `retryable`: the same request may work later."""

    status: int
    title: str
    help: str
    retryable: bool = False


def _at(status: int, retryable: bool, **codes: tuple[str, str]) -> dict[str, ProblemType]:
    return {code: ProblemType(status, title, help_text, retryable) for code, (title, help_text) in codes.items()}


REGISTRY: dict[str, ProblemType] = {
    **_at(
        400,
        False,
        invalid_json=("The body is not JSON", "Send valid UTF-8 JSON: no NaN, no trailing commas, no byte order mark."),
        json_too_deep=("The body is nested too deeply", "The limit is 32 levels of lists and objects."),
        invalid_yaml=("The body is not YAML", "Send one YAML document of plain values: no tags, no aliases."),
        invalid_request=("The request cannot be read", "Check the method, the path and the headers."),
        invalid_host=("The Host is missing or wrong", "Send one Host header that names this server."),
        invalid_path=("The path cannot be read", "Encode it as UTF-8 in %XX; no control characters."),
        invalid_idempotency_key=(
            "The Idempotency-Key cannot be used",
            "Send at most one, of 1 to 255 printable ASCII characters.",
        ),
        ambiguous_credentials=("More than one credential", "Send exactly one Authorization header."),
        token_in_query=(
            "A credential in the URL",
            "URLs are logged. Send the Authorization header, or a stream ticket as a WebSocket subprotocol.",
        ),
    ),
    **_at(
        401,
        False,
        missing_credentials=("No credential", "Send `Authorization: Bearer <token or API key>`."),
        unsupported_scheme=("Not a bearer credential", "Send `Authorization: Bearer <token or API key>`."),
        invalid_token=("The credential is not accepted", "Sign in again, or use another API key."),
        invalid_credentials=("E-mail or password is wrong", "Check both; the answer is the same for either."),
        refresh_reused=(
            "The refresh token was used before",
            "All tokens of this sign-in are now void. Sign in again; if it was not you who used it, tell your admin.",
        ),
    ),
    **_at(
        403,
        False,
        insufficient_scope=("Not allowed", "The credential lacks the permission named in the detail."),
        origin_not_allowed=("This site may not connect", "Add the site's origin to ALLOWED_ORIGINS."),
        not_a_decider=("The decision is not yours", "The approval names who may decide."),
        approval_required=("People must approve before it", "Start the workflow, and have it approved."),
        self_approval=(
            "Nobody approves a run of their own",
            "Somebody else must decide, unless the workflow allows it.",
        ),
    ),
    **_at(
        404,
        False,
        not_found=("There is no such thing here", "Check the id; things of other organisations are not shown."),
        nothing_to_compare=(
            "No earlier success to compare with",
            "Name an execution: `GET /executions/{id}/diff/{other}`.",
        ),
    ),
    **_at(
        405,
        False,
        method_not_allowed=("The method is not offered here", "The Allow header lists those that are."),
    ),
    **_at(
        408,
        True,
        request_timeout=("The request came too slowly", "Send a whole head within 10 s and a whole body within 30 s."),
    ),
    **_at(
        409,
        False,
        invalid_state=("Its state does not allow this", "Read it again; its status may have changed."),
        already_exists=("It exists already", "Choose another id or name."),
        approval_decided=("The approval is decided already", "Read it again to see by whom."),
        already_decided_by_you=("You decided this already", "A decision is final; the same one again is accepted."),
        too_many_signals=(
            "Too many signals wait to be used",
            "Signals are kept until a step uses them; send this one again when some have been used.",
        ),
        count_changed=("Another number of executions matches by now", "Count again, look, and send the new count."),
    ),
    **_at(
        409,
        True,
        idempotency_in_progress=("The first request is still undecided", "Send the same request again in a moment."),
    ),
    **_at(
        412,
        False,
        version_conflict=("It was changed meanwhile", "Read it again and repeat your change on the newer version."),
    ),
    **_at(
        413,
        False,
        body_too_large=("The body is too large", "The limit is 1 MiB, 2 MiB for a workflow; put large data elsewhere."),
    ),
    **_at(
        414,
        False,
        uri_too_long=("The URL is too long", "The limit is 8 KiB; put large data into the body."),
    ),
    **_at(
        415,
        False,
        unsupported_media_type=("The media type is not accepted", "Send `Content-Type: application/json`."),
        unsupported_content_encoding=("The body is encoded", "Send it without Content-Encoding."),
    ),
    **_at(
        422,
        False,
        loop_detected=("Runs start each other in a loop", "Find the workflow whose request starts the one before it."),
        number_out_of_range=("A number is too large", "Numbers are those of 64 bits, whole or decimal."),
        unknown_parameter=("There is no such query parameter", "Check its spelling; `errors` names it."),
        duplicate_parameter=("A query parameter is given twice", "Send it once; `errors` names it."),
        validation_error=("The request is not valid", "`errors` lists everything that is wrong, each with a pointer."),
        workflow_invalid=("The workflow cannot run", "`errors` lists its problems; mend them and save it again."),
        input_schema_mismatch=("The input does not fit the workflow", "Compare it with the workflow's `input` schema."),
        idempotency_key_reused=(
            "The Idempotency-Key stands for another request",
            "Use a fresh key for each different request.",
        ),
        form_mismatch=("The data does not fit the approval's form", "Compare it with the `form` of the approval."),
        too_many_matches=("Too many executions match", "Narrow the filter to at most 10,000 executions."),
        unknown_reference=("It refers to something that is not there", "Check the ids in the body."),
        value_not_storable=("A value cannot be stored", "Leave out NUL characters and numbers beyond 64 bits."),
        invalid_cursor=("The cursor is not ours", "Use `next_cursor` of the page before, with the same filters."),
    ),
    **_at(
        428,
        False,
        precondition_required=("If-Match is missing", "Send the ETag of the version your change is based on."),
    ),
    **_at(
        429,
        True,
        rate_limited=("Too many requests", "Wait for the seconds in Retry-After."),
        quota_exceeded=("The organisation's quota is used up", "Wait for the seconds in Retry-After."),
        too_many_streams=("Too many streams are open", "Close some: there is a limit per user and per organisation."),
    ),
    **_at(
        431,
        False,
        headers_too_large=("The headers are too large", "The limits are 32 KiB and 100 headers."),
    ),
    **_at(
        500,
        True,
        internal_error=("Stepstream failed", "It is logged under the request id; tell your operator."),
    ),
    **_at(
        503,
        True,
        database_unavailable=("The database does not answer", "Try again in a moment."),
        database_busy=("The database is busy", "Try again in a moment."),
        storage_full=("The database's disk is full", "The operator must free space; accepted work is kept."),
        overloaded=("This server is busy", "Wait for the seconds in Retry-After."),
        draining=("This server is stopping", "Try again; another server takes over."),
    ),
}

RUN_CODES: dict[str, tuple[str, str]] = {
    "step_error": ("A step failed", "Its error message is the first cause; look at the step's attempts."),
    "step_timeout": ("A step took too long", "Raise the step's `timeout`, or find out what it waits for."),
    "execution_timed_out": ("The execution took too long", "Raise the workflow's `timeout`."),
    "execution_cancelled": ("The execution was cancelled", "Its reason and who asked are in its events."),
    "expression_error": ("An expression failed", "The message names the expression; check the values it reads."),
    "expression_limit": ("An expression did too much", "Move loops over large data into a step."),
    "output_not_json": ("A result is not JSON", "Return plain values: no NaN, no bytes, text keys only."),
    "output_too_large": ("A result is too large", "Store it elsewhere and return a reference."),
    "threads_exhausted": (
        "Too many functions do not return",
        "They were given up when their time was over; give what they wait for a limit, and restart the process.",
    ),
    "target_failing": (
        "A target is given a rest",
        "It failed ten times in a row, so it is asked only now and then; what may be retried is, once it answers.",
    ),
    "outcome_unknown": (
        "A worker was lost during a step that must happen once",
        "Check the other side whether it happened; then start a new execution.",
    ),
    "poison": ("The execution kept killing its worker", "Look at the server's log around its last step."),
    "invalid_config": ("A step's settings are wrong", "Compare its `with` with the schema of its type."),
    "invalid_risk_score": ("The risk score is not a number from 0 to 1", "Check the `risk_score` expression."),
    "secret_not_found": ("A secret is missing", "Make it (`POST /api/v1/secrets`), then retry the execution."),
    "secret_unreadable": (
        "A secret cannot be opened",
        "It was sealed under another master secret. Set its value again, or give the process the previous one.",
    ),
    "secret_host_not_allowed": (
        "A secret is not for this host",
        "The step, or a redirect, would send it elsewhere. Set the secret with this host among its `allowed_hosts`.",
    ),
    "secret_not_allowed": (
        "A secret stands where none may",
        "Write it in the definition, in a field that is sent only.",
    ),
    "record_rejected": ("The run could not be recorded", "A value cannot be stored; the log has the reason."),
}
"""Codes that appear as `error_code` of executions and steps, besides those of the step types."""
