"""Settings of our own evaluators, as a study file's `evaluator:` section gives them."""

from pydantic import Field

from recycler.settings import Settings


class LmEvalSettings(Settings):
    """Settings of `kind: lm-eval`; defaults are those of `lm_eval.simple_evaluate`.

    Attributes:
        tasks: folder of tasks, read as `lm_eval --include_path` reads it; empty: lm-eval's own.
        batch_size: sequences a forward pass.
        max_length: longest sequence [tokens]; None takes the model's.
        num_fewshot: examples in each prompt; None takes the tasks' own. A task whose config says 0
            keeps 0.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
        fewshot_as_multiturn: with a chat template, each example is a turn of its own.
        allow_unsafe_code: run tasks that execute what the model writes.
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
        function: `module:name` of the scoring function; the module may lie beside the study file.
    """

    function: str = Field(min_length=1)
