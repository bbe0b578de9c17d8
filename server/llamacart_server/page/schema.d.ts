// Types of the API, written by tests/server/page/write_types.py from the server's OpenAPI document.

export type ActingCartridge = { "id": string; "alpha": number; "hash": string; "apply_to": string };

export type AssistantMessage = { "role"?: "assistant"; "content": string | null; "refusal"?: null; "annotations"?: (null)[]; "tool_calls"?: (ToolCall)[] | null };

export type CalledFunction = { "name": string; "arguments"?: string };

export type CartridgeCard = { "id": string; "alpha": number; "default_alpha": number; "hash": string; "description": string };

export type CartridgeDeleted = { "id": string; "object"?: "cartridge"; "deleted"?: true; "file_deleted": boolean };

export type CartridgeField = { "id": string; "alpha"?: number | null; "apply_to"?: "all" | "prompt" | "generated" | null; "when"?: (string)[] | null };

export type CartridgeInfo = { "id": string; "object"?: "cartridge"; "model": string; "description": string; "default_alpha": number; "alpha_min"?: number; "alpha_max"?: number; "hash": string; "size_bytes": number; "active_neurons": number; "layers": (number)[]; "when": (string)[]; "made_for": MadeFor; "file": string | null; "created": string; "solver": string; "settings": { [name: string]: any }; "dataset_hash": string; "diagnostics": { [name: string]: any }; "tool_version": string };

export type CartridgeList = { "object"?: "list"; "data": (CartridgeInfo)[]; "left_out": (LeftOutFile)[]; "train_jobs": boolean; "weights_hash": string };

export type ChatBody = { "model": string; "cartridges"?: (CartridgeField)[] | null; "cartridge"?: string | null; "alpha"?: number | null; "temperature"?: number | null; "top_p"?: number | null; "top_k"?: number | null; "min_p"?: number | null; "presence_penalty"?: number | null; "frequency_penalty"?: number | null; "logit_bias"?: { [name: string]: number } | null; "seed"?: number | null; "ignore_eos"?: boolean | null; "telemetry"?: boolean | "tokens" | null; "stop"?: string | (string)[] | null; "stream"?: boolean | null; "stream_options"?: StreamOptions | null; "user"?: string | null; "grammar"?: null | [] | {} | ""; "guided_regex"?: null | [] | {} | ""; "guided_choice"?: null | [] | {} | ""; "guided_grammar"?: null | [] | {} | ""; "lora"?: null | [] | {} | ""; "max_tokens"?: number | null; "compare"?: boolean | (number)[] | null; "n"?: number | null; "response_format"?: ResponseFormat | null; "structured_outputs"?: StructuredOutputs | null; "guided_json"?: { [name: string]: any } | string | null; "json_schema"?: { [name: string]: any } | null; "messages": (Message)[]; "max_completion_tokens"?: number | null; "logprobs"?: boolean | null; "top_logprobs"?: number | null; "tools"?: (Tool)[] | null; "tool_choice"?: "none" | "auto" | "required" | NamedTool | null; "parallel_tool_calls"?: boolean | null; "functions"?: null | [] | {} | ""; "function_call"?: null | "none"; "modalities"?: null | ["text"]; "audio"?: null | [] | {} | ""; "web_search_options"?: null; "chat_template"?: null | [] | {} | ""; "chat_template_kwargs"?: null | [] | {} | ""; "add_generation_prompt"?: null | true; "continue_final_message"?: null | false; "add_special_tokens"?: null | false; "echo"?: null | false };

export type ChatChoice = { "index": number; "message": AssistantMessage; "logprobs"?: ChatLogprobs | null; "finish_reason": "stop" | "length" | "tool_calls"; "cartridges"?: (ActingCartridge)[] | null; "telemetry"?: Telemetry | null };

export type ChatCompletion = { "id": string; "created": number; "model": string; "cartridges": (ActingCartridge)[]; "object"?: "chat.completion"; "choices": (ChatChoice)[]; "usage": Usage };

export type ChatLogprobs = { "content": (ChatTokenLogprob)[]; "refusal"?: null };

export type ChatTokenLogprob = { "token": string; "logprob": number; "bytes": (number)[]; "top_logprobs": (ChatTopLogprob)[] };

export type ChatTopLogprob = { "token": string; "logprob": number; "bytes": (number)[] };

export type Completion = { "id": string; "created": number; "model": string; "cartridges": (ActingCartridge)[]; "object"?: "text_completion"; "choices": (CompletionChoice)[]; "usage": Usage | null };

export type CompletionBody = { "model": string; "cartridges"?: (CartridgeField)[] | null; "cartridge"?: string | null; "alpha"?: number | null; "temperature"?: number | null; "top_p"?: number | null; "top_k"?: number | null; "min_p"?: number | null; "presence_penalty"?: number | null; "frequency_penalty"?: number | null; "logit_bias"?: { [name: string]: number } | null; "seed"?: number | null; "ignore_eos"?: boolean | null; "telemetry"?: boolean | "tokens" | null; "stop"?: string | (string)[] | null; "stream"?: boolean | null; "stream_options"?: StreamOptions | null; "user"?: string | null; "grammar"?: null | [] | {} | ""; "guided_regex"?: null | [] | {} | ""; "guided_choice"?: null | [] | {} | ""; "guided_grammar"?: null | [] | {} | ""; "lora"?: null | [] | {} | ""; "max_tokens"?: number | null; "compare"?: boolean | (number)[] | null; "n"?: number | null; "response_format"?: ResponseFormat | null; "structured_outputs"?: StructuredOutputs | null; "guided_json"?: { [name: string]: any } | string | null; "json_schema"?: { [name: string]: any } | null; "prompt": string | (string)[] | (number)[] | ((number)[])[]; "best_of"?: number | null; "echo"?: boolean | null; "logprobs"?: number | null; "suffix"?: null | [] | {} | ""; "add_special_tokens"?: null | true };

export type CompletionChoice = { "index": number; "text": string; "logprobs"?: CompletionLogprobs | null; "finish_reason": "stop" | "length" | null; "cartridges"?: (ActingCartridge)[] | null; "telemetry"?: Telemetry | null };

export type CompletionLogprobs = { "tokens"?: (string)[]; "token_logprobs"?: (number | null)[]; "top_logprobs"?: ({ [name: string]: number } | null)[]; "text_offset"?: (number)[] };

export type ContentPart = { "type": "input_text" | "output_text"; "text": string };

export type DetokenizeBody = { "tokens": (number)[] };

export type Embedding = { "object"?: "embedding"; "index": number; "embedding": (number)[] | string };

export type EmbeddingList = { "object"?: "list"; "data": (Embedding)[]; "model": string; "usage": EmbeddingUsage; "cartridges": (ActingCartridge)[] };

export type EmbeddingUsage = { "prompt_tokens": number; "total_tokens": number };

export type EmbeddingsBody = { "model": string; "cartridges"?: (CartridgeField)[] | null; "cartridge"?: string | null; "alpha"?: number | null; "input": string | (string)[] | (number)[] | ((number)[])[]; "encoding_format"?: "float" | "base64" | null; "dimensions"?: number | null; "user"?: string | null };

export type ErrorBody = { "error": ErrorDetail };

export type ErrorDetail = { "message": string; "type": string; "param": string | null; "code": string };

export type FunctionCallItem = { "type": "function_call"; "call_id": string; "name": string; "arguments": string };

export type FunctionChoice = { "name": string };

export type FunctionOutputItem = { "type": "function_call_output"; "call_id"?: string | null; "output": string | (ContentPart)[] };

export type FunctionSpec = { "name": string; "description"?: string | null; "parameters"?: { [name: string]: any } | null; "strict"?: boolean | null };

export type FunctionTool = { "type": "function"; "name": string; "description"?: string | null; "parameters"?: { [name: string]: any } | null; "strict"?: boolean | null };

export type FunctionToolChoice = { "type": "function"; "name": string };

export type IncompleteDetails = { "reason"?: "max_output_tokens" };

export type InputTokensDetails = { "cached_tokens": number; "cache_write_tokens"?: number };

export type JsonSchemaFormat = { "schema": any; "name"?: string | null; "description"?: string | null; "strict"?: boolean | null };

export type LeftOutFile = { "file": string; "reason": string };

export type LoadLoraBody = { "lora_name": string; "lora_path": string; "load_inplace"?: boolean | null };

export type MadeFor = { "name": string; "architecture": string; "n_layer": number; "n_ff": number; "n_embd": number; "weights_hash": string };

export type Message = { "role": "system" | "developer" | "user" | "assistant" | "tool"; "tool_calls"?: (PastCall)[] | null; "content"?: string | (TextPart)[] | null; "tool_call_id"?: string | null; "function_call"?: null | [] | {} | "" };

export type MessageItem = { "type"?: "message" | null; "role": "system" | "developer" | "user" | "assistant"; "content": string | (ContentPart)[] };

export type ModelCard = { "id": string; "object"?: "model"; "created": number; "owned_by"?: "llamacart"; "root": string; "parent": string | null; "n_ctx": number; "max_model_len": number; "chat_template": string; "cartridges": (CartridgeCard)[] };

export type ModelList = { "object"?: "list"; "data": (ModelCard)[] };

export type NamedTool = { "type": "function"; "function": FunctionChoice };

export type OutputCall = { "id": string; "type"?: "function_call"; "status"?: "in_progress" | "completed" | "incomplete"; "call_id": string; "name": string; "arguments"?: string };

export type OutputMessage = { "id": string; "type"?: "message"; "role"?: "assistant"; "status"?: "in_progress" | "completed" | "incomplete"; "content"?: (OutputText)[] };

export type OutputText = { "type"?: "output_text"; "text"?: string; "annotations"?: (null)[]; "logprobs"?: (null)[] };

export type OutputTokensDetails = { "reasoning_tokens"?: number };

export type PastCall = { "id"?: string | null; "type"?: "function"; "function": PastFunction };

export type PastFunction = { "name": string; "arguments": string };

export type PlainFormat = { "type": "text" | "json_object" };

export type PromptTokensDetails = { "cached_tokens"?: number };

export type ReasoningConfig = { "effort"?: null; "summary"?: null };

export type ReasoningOptions = { "effort"?: "none" | null };

export type ResponseFailure = { "code"?: "server_error"; "message": string };

export type ResponseFormat = { "type": "text" | "json_object" | "json_schema"; "json_schema"?: JsonSchemaFormat | null; "schema"?: any };

export type ResponseObject = { "id": string; "object"?: "response"; "created_at": number; "completed_at"?: number | null; "status"?: "in_progress" | "completed" | "incomplete" | "failed"; "error"?: ResponseFailure | null; "incomplete_details"?: IncompleteDetails | null; "model": string; "cartridges": (ActingCartridge)[]; "output"?: (OutputMessage | OutputCall)[]; "usage"?: ResponseUsage | null; "telemetry"?: Telemetry | null; "instructions": string | null; "max_output_tokens": number | null; "max_tool_calls": number | null; "metadata": { [name: string]: string }; "parallel_tool_calls": boolean; "prompt_cache_key": string | null; "safety_identifier": string | null; "temperature": number; "text": TextConfig; "tool_choice": "none" | "auto" | "required" | FunctionToolChoice; "tools": (FunctionTool)[]; "top_p": number; "user": string | null; "background"?: false; "previous_response_id"?: null; "reasoning"?: ReasoningConfig; "store"?: false; "top_logprobs"?: 0; "truncation"?: "disabled" };

export type ResponseUsage = { "input_tokens": number; "input_tokens_details": InputTokensDetails; "output_tokens": number; "output_tokens_details"?: OutputTokensDetails; "total_tokens": number };

export type ResponsesBody = { "model": string; "cartridges"?: (CartridgeField)[] | null; "cartridge"?: string | null; "alpha"?: number | null; "temperature"?: number | null; "top_p"?: number | null; "top_k"?: number | null; "min_p"?: number | null; "presence_penalty"?: number | null; "frequency_penalty"?: number | null; "logit_bias"?: { [name: string]: number } | null; "seed"?: number | null; "ignore_eos"?: boolean | null; "telemetry"?: boolean | "tokens" | null; "stop"?: string | (string)[] | null; "stream"?: boolean | null; "stream_options"?: StreamOptions | null; "user"?: string | null; "grammar"?: null | [] | {} | ""; "guided_regex"?: null | [] | {} | ""; "guided_choice"?: null | [] | {} | ""; "guided_grammar"?: null | [] | {} | ""; "lora"?: null | [] | {} | ""; "input": string | (MessageItem | FunctionCallItem | FunctionOutputItem)[]; "instructions"?: string | null; "max_output_tokens"?: number | null; "text"?: TextOptions | null; "tools"?: (FunctionTool)[] | null; "tool_choice"?: "none" | "auto" | "required" | FunctionToolChoice | null; "parallel_tool_calls"?: boolean | null; "store"?: boolean | null; "metadata"?: { [name: string]: string } | null; "truncation"?: "disabled" | null; "safety_identifier"?: string | null; "prompt_cache_key"?: string | null; "max_tool_calls"?: number | null; "include"?: ("reasoning.encrypted_content")[] | null; "reasoning"?: ReasoningOptions | null; "top_logprobs"?: null | 0; "background"?: null | false; "previous_response_id"?: null | [] | {} | ""; "conversation"?: null | [] | {} | ""; "prompt"?: null | [] | {} | ""; "context_management"?: null | [] | {} | ""; "moderation"?: null | [] | {} | ""; "prompt_cache_options"?: null | [] | {} | ""; "compare"?: null | false; "n"?: null | 1; "max_tokens"?: any; "response_format"?: any; "structured_outputs"?: any; "guided_json"?: any; "json_schema"?: any };

export type SchemaFormat = { "type": "json_schema"; "name": string; "schema": { [name: string]: any }; "description"?: string | null; "strict"?: boolean | null };

export type Status = { "status"?: "ok" };

export type StreamOptions = { "include_usage"?: boolean | null; "include_obfuscation"?: null | false; "continuous_usage_stats"?: null | false };

export type StructuredOutputs = { "json"?: any; "json_object"?: boolean | null };

export type Telemetry = { "dose"?: { [name: string]: number } | null; "capped_rows"?: number | null; "tokens"?: (TokenDose)[] | null };

export type Text = { "content": string; "prompt": string };

export type TextConfig = { "format": PlainFormat | SchemaFormat };

export type TextOptions = { "format"?: PlainFormat | SchemaFormat | null; "verbosity"?: "medium" | null };

export type TextPart = { "type": "text"; "text": string };

export type TokenDose = { "id": number; "token": string; "start": number; "dose": number | null; "layers": { [name: string]: number } };

export type TokenizeBody = { "content"?: string | null; "prompt"?: string | null; "messages"?: (Message)[] | null; "add_generation_prompt"?: null | true; "add_special"?: boolean | null; "add_special_tokens"?: boolean | null; "parse_special"?: boolean | null; "with_pieces"?: null | false; "return_token_strs"?: null | false };

export type TokenizerInfo = { "bos_token": string | null; "eos_token": string | null; "chat_template": string; "model_max_length": number };

export type Tokens = { "tokens": (number)[]; "count": number; "max_model_len": number };

export type Tool = { "type": "function"; "function": FunctionSpec };

export type ToolCall = { "id": string; "type"?: "function"; "function": CalledFunction };

export type TrainBody = { "id": string; "prompt"?: string | null; "pairs"?: string | null; "facts"?: string | null };

export type TrainJob = { "id": string; "object"?: "train_job"; "cartridge": string; "kind": "prompt" | "pairs" | "facts"; "status": "queued" | "running" | "finished" | "failed" | "cancelled"; "created": number; "started": number | null; "ended": number | null; "progress": string; "share": number | null; "error": string | null; "log": (string)[] };

export type TrainJobList = { "object"?: "list"; "data": (TrainJob)[] };

export type UnloadLoraBody = { "lora_name": string };

export type Usage = { "prompt_tokens": number; "completion_tokens": number; "total_tokens": number; "prompt_tokens_details"?: PromptTokensDetails };

export interface Get {
  "v1/models": { body: undefined; answer: ModelList };
  [path: `v1/models/${string}`]: { body: undefined; answer: ModelCard };
  "v1/cartridges": { body: undefined; answer: CartridgeList };
  [path: `v1/cartridges/${string}`]: { body: undefined; answer: CartridgeInfo };
  "tokenizer_info": { body: undefined; answer: TokenizerInfo };
  "v1/train_jobs": { body: undefined; answer: TrainJobList };
  [path: `v1/train_jobs/${string}`]: { body: undefined; answer: TrainJob };
  "health": { body: undefined; answer: Status };
  "ready": { body: undefined; answer: Status };
}

export interface Post {
  "v1/chat/completions": { body: ChatBody; answer: ChatCompletion };
  "v1/completions": { body: CompletionBody; answer: Completion };
  "v1/responses": { body: ResponsesBody; answer: ResponseObject };
  "v1/cartridges": { body: { "path": string; "id"?: string | null }; answer: CartridgeInfo };
  "tokenize": { body: TokenizeBody; answer: Tokens };
  "detokenize": { body: DetokenizeBody; answer: Text };
  "v1/train_jobs": { body: TrainBody; answer: TrainJob };
  "v1/embeddings": { body: EmbeddingsBody; answer: EmbeddingList };
}

export interface Delete {
  [path: `v1/cartridges/${string}`]: { body: undefined; answer: CartridgeDeleted };
  [path: `v1/train_jobs/${string}`]: { body: undefined; answer: TrainJob };
}

/** Asks the API: a GET, a POST with a body, or a DELETE. */
export interface Call {
  <P extends keyof Get>(path: P): Promise<Get[P]["answer"]>;
  <P extends keyof Post>(
    path: P, body: Post[P]["body"], options?: { method?: "POST"; signal?: AbortSignal },
  ): Promise<Post[P]["answer"]>;
  <P extends keyof Delete>(
    path: P, body: undefined, options: { method: "DELETE"; signal?: AbortSignal },
  ): Promise<Delete[P]["answer"]>;
}
