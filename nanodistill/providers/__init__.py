"""One attempt at one call, to any teacher. No policy: `engine` decides what follows.

factory                 the provider that a configuration asks for
base                    what a provider is: complete(request) -> Reply
openai_compatible       straight HTTP to servers that speak OpenAI's format
request_capture         what LiteLLM would send, so that the straight way sends the same
litellm                 any other provider, through LiteLLM
local_mlx               a model on this machine
python_function         a function, or a list of answers; also the tests' teacher
model_resolution, teacher_validation    whom a name means, and whether it can be used
request_params, unsupported_params      what goes into a request, and what was refused
structured_output       how a JSON schema is put to a teacher
response_parser         a body becomes a completion
rate_limit_headers      what headers say of limits
error_classifier, exception_table       every failure becomes one of our kinds
prices                  what a call costs
"""
