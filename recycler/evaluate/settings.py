"""Settings of the built-in evaluators: the `evaluator:` section of a study file."""

from pydantic import Field

from recycler.settings import Settings


class LmEvalSettings(Settings):
    """Settings of `kind: lm-eval`; few-shot and chat defaults are those of `simple_evaluate`.

    Attributes:
        tasks: folder of tasks, as for `lm_eval --include_path`; empty: lm-eval's own tasks.
        batch_size: sequences per forward pass.
        max_length: longest sequence [tokens]; None: the model's.
        num_fewshot: examples per prompt; None: the task's own number. A task whose config says 0
            keeps 0.
        apply_chat_template: whether to put prompts into the tokenizer's chat template.
        fewshot_as_multiturn: with a chat template, whether each example is a turn of its own.
        allow_unsafe_code: whether tasks may execute code that the model writes.
    """

    tasks: str = ""
    batch_size: int = Field(64, ge=1)
    max_length: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    allow_unsafe_code: bool = False


class PythonSettings(Settings):
    """Settings of `kind: python`.

    Attributes:
        function: `module:name` of the scoring function; the module may be beside the study file.
    """

    function: str = Field(min_length=1)
