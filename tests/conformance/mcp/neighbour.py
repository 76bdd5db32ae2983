"""A server of the SDK, whose tools, resources and prompts stand next to the operations: what MCP
has and runs have not.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)

# One red pixel, and no sound at all.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAA"
    "DUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0"
).decode()

neighbour = MCPServer("conformance", log_level="WARNING")


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    held = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=held)


# --- what a tool may answer with -----------------------------------------------------


@neighbour.tool()
def test_image_content() -> list[ImageContent]:
    """Answers with a picture."""
    return [ImageContent(type="image", data=PNG, mime_type="image/png")]


@neighbour.tool()
def test_audio_content() -> list[AudioContent]:
    """Answers with a sound."""
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


@neighbour.tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    """Answers with a resource."""
    return [_embedded("test://embedded-resource", "This is an embedded resource content.")]


@neighbour.tool()
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answers with several things."""
    told = json.dumps({"test": "data", "value": 123})
    return [
        TextContent(type="text", text="Multiple content types test:"),
        ImageContent(type="image", data=PNG, mime_type="image/png"),
        _embedded("test://mixed-content-resource", told, "application/json"),
    ]


@neighbour.tool()
async def test_reconnection(ctx: Context) -> str:
    """Ends the stream that it is told by."""
    await ctx.close_sse_stream()
    return "done"


@neighbour.tool()
def test_missing_capability(ctx: Context) -> str:
    """Needs a client that samples."""
    known = ctx.session.client_capabilities
    if known is None or known.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This takes a client that samples.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "done"


@neighbour.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Says that the prompts have changed."""
    await ctx.notify_prompts_changed()
    return "done"


# --- questions without a run ---------------------------------------------------------


def _elicit(message: str, *names: str, kind: str = "string") -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name in names},
        "required": list(names),
    }
    params = ElicitRequestFormParams(message=message, requested_schema=schema)
    return ElicitRequest(params=params)


def _sample(text: str) -> CreateMessageRequest:
    said = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[said], max_tokens=100))


def _given(ctx: Context, key: str, name: str) -> str | None:
    answer = (ctx.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or answer.content is None:
        return None
    value = answer.content.get(name)
    return None if value is None else str(value)


def _asked(requests: dict[str, Any], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


@neighbour.tool()
def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Asks for a name."""
    name = _given(ctx, "user_name", "name")
    if name is None:
        return _asked({"user_name": _elicit("What is your name?", "name")})
    return f"Hello, {name}!"


@neighbour.tool()
def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Asks the client's model."""
    answer: Any = (ctx.input_responses or {}).get("capital_question")
    if answer is None:
        return _asked({"capital_question": _sample("What is the capital of France?")})
    return str(answer.content.text)


@neighbour.tool()
def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Asks for the roots."""
    answer: Any = (ctx.input_responses or {}).get("client_roots")
    if answer is None:
        return _asked({"client_roots": ListRootsRequest()})
    return ", ".join(str(root.uri) for root in answer.roots)


@neighbour.tool()
def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Asks, and knows what it has asked."""
    if ctx.input_responses is None or ctx.request_state != "first":
        return _asked({"confirm": _elicit("Please confirm", "ok", kind="boolean")}, "first")
    return "state-ok"


@neighbour.tool()
def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Believes only what it has said itself."""
    return test_input_required_result_request_state(ctx)


@neighbour.tool()
def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Asks for three things."""
    wanted = {
        "user_name": _elicit("What is your name?", "name"),
        "greeting": _sample("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    missing = {k: v for k, v in wanted.items() if k not in (ctx.input_responses or {})}
    return _asked(missing, "first") if missing else "all of them"


@neighbour.tool()
def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Asks twice."""
    if ctx.request_state is None:
        return _asked({"step1": _elicit("Step 1: What is your name?", "name")}, "1:")
    number, _, name = ctx.request_state.partition(":")
    if number == "1":
        name = _given(ctx, "step1", "name") or ""
        question = _elicit("Step 2: What is your favorite color?", "color")
        return _asked({"step2": question}, f"2:{name}")
    return f"{name} likes {_given(ctx, 'step2', 'color')}"


@neighbour.tool()
def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Asks what the client can answer."""
    known = ctx.session.client_capabilities
    requests: dict[str, Any] = {}
    if known is not None and known.elicitation is not None:
        requests["user_name"] = _elicit("What is your name?", "name")
    if known is not None and known.sampling is not None:
        requests["greeting"] = _sample("Generate a greeting")
    missing = {k: v for k, v in requests.items() if k not in (ctx.input_responses or {})}
    return _asked(missing) if missing else "done"


# --- resources -----------------------------------------------------------------------


@neighbour.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """Text."""
    return "This is the content of the static text resource."


@neighbour.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """A picture."""
    return base64.b64decode(PNG)


@neighbour.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    """Something with an id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@neighbour.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    """Something that could change."""
    return "watched"


# --- prompts -------------------------------------------------------------------------


@neighbour.prompt()
def test_simple_prompt() -> str:
    """Plain."""
    return "This is a simple prompt for testing."


@neighbour.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """With arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@neighbour.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
    """With a resource."""
    return [
        UserMessage(content=_embedded(resourceUri, "Embedded resource content for testing.")),
        UserMessage(content="Please process the embedded resource above."),
    ]


@neighbour.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """With a picture."""
    return [
        UserMessage(content=ImageContent(type="image", data=PNG, mime_type="image/png")),
        UserMessage(content="Please analyze the image above."),
    ]


@neighbour.prompt()
def test_input_required_result_prompt(ctx: Context) -> Any:
    """Asks for something first."""
    context = _given(ctx, "user_context", "context")
    if context is None:
        return _asked({"user_context": _elicit("What context should the prompt use?", "context")})
    return f"Use this context: {context}"


@neighbour.completion()  # type: ignore[no-untyped-call, untyped-decorator]
async def complete(
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion:
    names = [name for name in ("paris", "park", "party") if name.startswith(argument.value)]
    return Completion(values=names, total=len(names), has_more=False)
