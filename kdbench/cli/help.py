"""``kdbench --help``: what can be typed, with what there is to choose from."""

from kdbench.config.compose import Composer
from kdbench.report.console import make_console, print_line

ABOUT = """\
kdbench distils a teacher, through optional assistants, into a student; every network is trained once.

  kdbench                                                  bundled digits: plain6 -> plain4 -> plain2, about a minute
  kdbench dataset=fashion_mnist teacher=plain8 student=plain2 'assistants=[plain4]'
  kdbench method.temperature=2 optim.lr=0.05 seed=1        any key of the config
  kdbench hops.plain4.method.temperature=2                 another setting for the training of one network
  kdbench teacher=none student=plain2                      from scratch, the control
  kdbench -m 'assistants=[],[plain4]' seed=1,2,3           a sweep: networks that jobs share are trained once
  kdbench dry_run=true ...                                 the plan: what would be trained, what is already there
  kdbench --cfg job ...                                    the config, with every key that can be overridden

Choose an option of a group with GROUP=OPTION; assistants, logger and method take lists: 'assistants=[plain6,plain4]'.
"""

REST = """
Networks of libraries and earlier ones serve every role: timm/NAME, torchvision/NAME, hf/OWNER/NAME, store/ID;
weights from elsewhere: teacher.checkpoint=FILE.

Commands, each with --help:
  models, methods, datasets      what there is, with sources
  studies                        published tables and figures, each for -m study=NAME
  data check|fetch DATASET       whether its files are there and whole; download them
  taps NETWORK                   the places in a network that a method can read
  store ls | show ID | verify | gc | rm ID
  report [STUDY|FOLDER]          table, figures and one page of the newest or a named run or sweep
  eval ID 'eval=[calibration]'   more measurements of a trained network
  search 'KEY=interval(A,B)'     tunes keys on validation; search=takd: a published space
  dashboard STUDY|FOLDER         a W&B workspace and report of what was logged there
  export ID --format onnx        a trained network as a file: safetensors, torch_export, onnx

Flags are Hydra's: -m, --cfg job|hydra|all, --resolve, --package NODE, --config-dir DIR (your own YAMLs), --info.
Tab completion for bash: eval "$(kdbench -sc install=bash)"; --hydra-help has the other shells.
Exit status: 0 done, 1 something failed while running, 2 the command was wrong and nothing was started, 130/143 stopped.
"""
GROUPS = ("dataset", "teacher", "method", "optim", "trainer", "logger", "protocol", "eval")
HEADINGS = {"teacher": "teacher, student, assistants"}


def print_help(composer: Composer) -> int:
    """Prints it; the exit status."""
    console = make_console()
    print_line(console, ABOUT)
    for group in GROUPS:
        print_line(console, f"  {HEADINGS.get(group, group)}: {', '.join(composer.options(group))}")
    print_line(console, REST)
    return 0
