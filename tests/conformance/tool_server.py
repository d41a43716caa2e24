"""The tool server behind the host when the public conformance runner looks at it: what that asks for by name.

What each has to answer stands in the runner's descriptions of its scenarios (`conformance list`). Whoever calls is
asked in the modern way, by results that say that input is required.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp_types import (
    INVALID_PARAMS,
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmbeddedResource,
    GetPromptRequestParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    Tool,
)

Context = ServerRequestContext[Any, Any]
Answer = CallToolResult | InputRequiredResult

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
KEY = b"only this process knows it"
MISSING_CAPABILITY = -32021

bus = InMemorySubscriptionBus()


def text(said: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=said)])


def content(*items: Any) -> CallToolResult:
    return CallToolResult(content=list(items))


def embedded(uri: str, said: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=said))


def required(requests: dict[str, Any], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult.model_validate({"inputRequests": requests, "requestState": state})


def elicitation(message: str, *required_names: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required_names)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sampling(prompt: str, max_tokens: int = 100) -> dict[str, Any]:
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": max_tokens}}


ROOTS = {"method": "roots/list", "params": {}}
STRING = {"type": "string"}


def signed(step: str) -> str:
    return f"{step}.{hmac.new(KEY, step.encode(), hashlib.sha256).hexdigest()}"


def step_of(state: str | None) -> str:
    """What was signed; the beginning where nothing was.

    Raises:
        MCPError: it is none of ours.
    """
    if state is None:
        return ""
    step = state.partition(".")[0]
    if not hmac.compare_digest(signed(step), state):
        raise MCPError(INVALID_PARAMS, "this request state was not issued here")
    return step


def given(params: Any, key: str) -> dict[str, Any] | None:
    """What was answered under `key`, as JSON."""
    answer = (params.input_responses or {}).get(key)
    return None if answer is None else dict(answer.model_dump(mode="json", by_alias=True))


# --- tools ----------------------------------------------------------------------------------------------------------

Call = Callable[[Context, CallToolRequestParams], Awaitable[Answer]]
TOOLS: dict[str, tuple[Call, dict[str, Any]]] = {}


def tool(**properties: Any) -> Callable[[Call], Call]:
    def put(call: Call) -> Call:
        TOOLS[call.__name__] = call, {"type": "object", "properties": properties, "required": list(properties)}
        return call

    return put


@tool()
async def test_simple_text(ctx: Context, params: CallToolRequestParams) -> Answer:
    return text("This is a simple text response for testing.")


@tool()
async def test_image_content(ctx: Context, params: CallToolRequestParams) -> Answer:
    return content(ImageContent(data=PNG, mime_type="image/png"))


@tool()
async def test_audio_content(ctx: Context, params: CallToolRequestParams) -> Answer:
    return content(AudioContent(data=WAV, mime_type="audio/wav"))


@tool()
async def test_embedded_resource(ctx: Context, params: CallToolRequestParams) -> Answer:
    return content(embedded("test://embedded-resource", "This is an embedded resource content."))


@tool()
async def test_multiple_content_types(ctx: Context, params: CallToolRequestParams) -> Answer:
    said = json.dumps({"test": "data", "value": 123})
    return content(
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", said, "application/json"),
    )


@tool()
async def test_error_handling(ctx: Context, params: CallToolRequestParams) -> Answer:
    said = "This tool intentionally returns an error for testing"
    return CallToolResult(content=[TextContent(text=said)], is_error=True)


@tool()
async def test_tool_with_progress(ctx: Context, params: CallToolRequestParams) -> Answer:
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await anyio.sleep(0.05)
    return text("done")


@tool()
async def test_tool_with_logging(ctx: Context, params: CallToolRequestParams) -> Answer:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", said, related_request_id=ctx.request_id)
        await anyio.sleep(0.05)
    return text("logged")


@tool()
async def test_logging_tool(ctx: Context, params: CallToolRequestParams) -> Answer:
    return await test_tool_with_logging(ctx, params)


@tool(region={"type": "string", "x-mcp-header": "Region"})
async def test_custom_headers(ctx: Context, params: CallToolRequestParams) -> Answer:
    return text((params.arguments or {})["region"])


@tool(prompt=STRING)
async def test_sampling(ctx: Context, params: CallToolRequestParams) -> Answer:
    answer = given(params, "sampled")
    if answer is None:
        return required({"sampled": sampling((params.arguments or {})["prompt"])})
    return text(f"LLM response: {answer['content']['text']}")


@tool(message=STRING)
async def test_elicitation(ctx: Context, params: CallToolRequestParams) -> Answer:
    return elicited(params, (params.arguments or {})["message"], "username", "email", username=STRING, email=STRING)


@tool()
async def test_streaming_elicitation(ctx: Context, params: CallToolRequestParams) -> Answer:
    return elicited(params, "What is your name?", "name", name=STRING)


@tool()
async def test_elicitation_sep1034_defaults(ctx: Context, params: CallToolRequestParams) -> Answer:
    return elicited(
        params,
        "Please provide user information",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )


@tool()
async def test_elicitation_sep1330_enums(ctx: Context, params: CallToolRequestParams) -> Answer:
    plain = [f"option{number}" for number in (1, 2, 3)]
    titled = [{"const": f"value{number}", "title": f"Choice {number}"} for number in (1, 2, 3)]
    return elicited(
        params,
        "Please choose",
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option one", "Option two"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )


def elicited(params: CallToolRequestParams, message: str, *names: str, **properties: Any) -> Answer:
    answer = given(params, "asked")
    if answer is None:
        return required({"asked": elicitation(message, *names, **properties)})
    said = f"action={answer['action']}, content={json.dumps(answer.get('content'))}"
    return text(f"User response: {said}; Elicitation completed: {said}")


@tool()
async def test_missing_capability(ctx: Context, params: CallToolRequestParams) -> Answer:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(MISSING_CAPABILITY, "asks for sampling", {"requiredCapabilities": {"sampling": {}}})
    return text("sampling is declared")


@tool()
async def test_input_required_result_elicitation(ctx: Context, params: CallToolRequestParams) -> Answer:
    answer = given(params, "user_name")
    name = ((answer or {}).get("content") or {}).get("name")
    if not isinstance(name, str):
        return required({"user_name": elicitation("What is your name?", "name", name=STRING)})
    return text(f"Hello, {name}!")


@tool()
async def test_input_required_result_sampling(ctx: Context, params: CallToolRequestParams) -> Answer:
    answer = given(params, "capital_question")
    if answer is None:
        return required({"capital_question": sampling("What is the capital of France?")})
    return text(answer["content"]["text"])


@tool()
async def test_input_required_result_list_roots(ctx: Context, params: CallToolRequestParams) -> Answer:
    answer = given(params, "client_roots")
    if answer is None:
        return required({"client_roots": ROOTS})
    return text(", ".join(root["uri"] for root in answer["roots"]))


@tool()
async def test_input_required_result_request_state(ctx: Context, params: CallToolRequestParams) -> Answer:
    if step_of(params.request_state) != "asked" or given(params, "confirm") is None:
        return required({"confirm": elicitation("Please confirm", "ok", ok={"type": "boolean"})}, signed("asked"))
    return text("state-ok")


@tool()
async def test_input_required_result_tampered_state(ctx: Context, params: CallToolRequestParams) -> Answer:
    return await test_input_required_result_request_state(ctx, params)


@tool()
async def test_input_required_result_multiple_inputs(ctx: Context, params: CallToolRequestParams) -> Answer:
    requests = {
        "user_name": elicitation("What is your name?", "name", name=STRING),
        "greeting": sampling("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if step_of(params.request_state) != "asked" or any(given(params, key) is None for key in requests):
        return required(requests, signed("asked"))
    return text("all is there")


@tool()
async def test_input_required_result_multi_round(ctx: Context, params: CallToolRequestParams) -> Answer:
    step = step_of(params.request_state)
    if step == "named" and given(params, "step2") is not None:
        return text("both are there")
    if step and given(params, "step1") is not None:
        asked = elicitation("Step 2: What is your favorite color?", "color", color=STRING)
        return required({"step2": asked}, signed("named"))
    return required({"step1": elicitation("Step 1: What is your name?", "name", name=STRING)}, signed("begun"))


@tool()
async def test_input_required_result_capabilities(ctx: Context, params: CallToolRequestParams) -> Answer:
    declared = ctx.session.client_capabilities
    requests = {
        "sampled": sampling("Say something") if declared and declared.sampling is not None else None,
        "asked": elicitation("Name?", name=STRING) if declared and declared.elicitation is not None else None,
    }
    asked = {key: request for key, request in requests.items() if request is not None}
    if not asked or params.input_responses:
        return text("nothing, or enough, could be asked")
    return required(asked)


@tool()
async def test_trigger_tool_change(ctx: Context, params: CallToolRequestParams) -> Answer:
    await bus.publish(ToolsListChanged())
    return text("changed")


@tool()
async def test_trigger_prompt_change(ctx: Context, params: CallToolRequestParams) -> Answer:
    await bus.publish(PromptsListChanged())
    return text("changed")


TOOLS["json_schema_2020_12_tool"] = (
    test_simple_text,
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": STRING, "city": STRING},
            }
        },
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)


async def list_tools(ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(
        tools=[
            Tool(name=name, description=name.replace("_", " "), input_schema=schema)
            for name, (_, schema) in TOOLS.items()
        ]
    )


async def call_tool(ctx: Context, params: CallToolRequestParams) -> Answer:
    if params.name not in TOOLS:
        raise MCPError(INVALID_PARAMS, f"no tool is called {params.name}")
    return await TOOLS[params.name][0](ctx, params)


# --- resources ------------------------------------------------------------------------------------------------------


async def list_resources(ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    uris = {"static-text": "text/plain", "static-binary": "image/png", "watched-resource": "text/plain"}
    return ListResourcesResult(
        resources=[
            Resource(uri=f"test://{name}", name=name, description=name, mime_type=mime_type)
            for name, mime_type in uris.items()
        ]
    )


async def list_templates(ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    template = ResourceTemplate(
        uri_template="test://template/{id}/data", name="template", mime_type="application/json", description="Data"
    )
    return ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri = str(params.uri)
    if uri == "test://static-binary":
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)])
    if uri.startswith("test://template/"):
        number = uri.split("/")[3]
        said = json.dumps({"id": number, "templateTest": True, "data": f"Data for ID: {number}"})
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type="application/json", text=said)])
    said = "This is the content of the static text resource."
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type="text/plain", text=said)])


# --- prompts --------------------------------------------------------------------------------------------------------

PROMPTS = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}


async def list_prompts(ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    return ListPromptsResult(
        prompts=[
            Prompt(
                name=name,
                description=name.replace("_", " "),
                arguments=[PromptArgument(name=argument, description=argument, required=True) for argument in names],
            )
            for name, names in PROMPTS.items()
        ]
    )


async def get_prompt(ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    arguments = params.arguments or {}
    said: list[Any]
    match params.name:
        case "test_prompt_with_arguments":
            said = [TextContent(text=f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            said = [
                embedded(arguments["resourceUri"], "Embedded resource content for testing."),
                TextContent(text="Please process the embedded resource above."),
            ]
        case "test_prompt_with_image":
            said = [
                ImageContent(data=PNG, mime_type="image/png"),
                TextContent(text="Please analyze the image above."),
            ]
        case "test_input_required_result_prompt" if given(params, "user_context") is None:
            asked = elicitation("What context should the prompt use?", "context", context=STRING)
            return required({"user_context": asked})
        case _:
            said = [TextContent(text="This is a simple prompt for testing.")]
    return GetPromptResult(messages=[PromptMessage(role="user", content=item) for item in said])


async def complete(ctx: Context, params: CompleteRequestParams) -> CompleteResult:
    words = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=words, total=len(words), has_more=False))


server: Server[Any] = Server(
    "conformance",
    version="1",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_subscriptions_listen=ListenHandler(bus),
)


async def main() -> None:
    async with stdio_server() as (read, write):
        changes = NotificationOptions(tools_changed=True, prompts_changed=True)
        await server.run(read, write, server.create_initialization_options(changes))


if __name__ == "__main__":
    anyio.run(main)
