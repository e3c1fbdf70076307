# The Python worker: runs the functions that RUNNER_CALLS names, as the runner asks for them on
# descriptor 3, and answers on descriptor 4; see runner-worker(7). Python 3.8 and newer, nothing but
# the standard library. What it finds installed (Django, yourlabs) it uses.
import fcntl
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import signal
import sys
import traceback
import types
from datetime import timedelta

def out_of_the_way(descriptor):
    """A copy where functions that close the first descriptors do not meet it; close-on-exec."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    except OSError:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 5)


PID = os.getpid()
REQUESTS, REPLIES, *STANDARD = map(out_of_the_way, (3, 4, 0, 1, 2))
os.closerange(3, 5)
IDENTITIES = [os.fstat(descriptor)[1:3] for descriptor in STANDARD]
LONGEST = 60 * 1024
OPTIONS = ("success_cooldown", "fail_cooldown", "non_recoverable_downtime")
FORK = os.environ.get("RUNNER_ISOLATION") == "fork"


def say(word, value=None):
    """One line to the runner, in one piece."""
    line = word if value is None else word + " " + json.dumps(value)
    data = line.encode("ascii", "replace") + b"\n"
    try:
        while data:
            data = data[os.write(REPLIES, data):]
    except BrokenPipeError:
        # The runner has given this worker up: nobody is to hear of it.
        os._exit(1)


def seconds(name, value):
    """An option as the runner wants it."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("%s takes a timedelta or a number of seconds, not %r" % (name, value))
    if not 0 <= value < 100 * 366 * 86400 or (value == 0 and name == OPTIONS[2]):
        raise ValueError("%s is out of range: %r seconds" % (name, value))
    return value


def task(function=None, *, success_cooldown=None, fail_cooldown=None, non_recoverable_downtime=None):
    """The decorator @runner.task: says a task's options where its code is."""
    values = (success_cooldown, fail_cooldown, non_recoverable_downtime)
    options = {name: value for name, value in zip(OPTIONS, values) if value is not None}
    for name, value in options.items():
        seconds(name, value)

    def decorate(function):
        # Of a static or class method, a look-up by name finds the function inside.
        inner = getattr(function, "__func__", function)
        for name, value in options.items():
            setattr(inner, name, value)
        return function

    return decorate if function is None else decorate(function)


def provide_yourlabs():
    """`from yourlabs import runner` without the package. One that is installed is left alone."""
    try:
        if importlib.util.find_spec("yourlabs") is not None:
            return
    except (ImportError, ValueError):
        return
    package, runner, tasks = (
        types.ModuleType(name) for name in ("yourlabs", "yourlabs.runner", "yourlabs.runner.tasks"))
    # A place where nothing is: Django wants one of each application.
    package.__path__ = runner.__path__ = ["/nonexistent/yourlabs"]
    runner.task = task

    @task(fail_cooldown=timedelta(seconds=1), non_recoverable_downtime=timedelta(seconds=3))
    def divide_by_zero():
        return 1 // 0

    tasks.divide_by_zero = divide_by_zero
    package.runner, runner.tasks = runner, tasks
    for module in (package, runner, tasks):
        name = module.__name__
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=module is not tasks)
        sys.modules[name] = module


def find(name):
    """The function of a dotted name; what stands in the way of it is raised."""
    module, _, rest = name.rpartition(".")
    if not module:
        raise ImportError("%s names no module: write module.function" % name)
    path = []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            # A method of a class: its module is further up. What is missing elsewhere is told.
            if error.name != module or "." not in module:
                raise
            module, _, part = module.rpartition(".")
            path.insert(0, part)
    for part in path + [rest]:
        found = getattr(found, part)
    if not callable(found):
        raise TypeError("%s is no function" % name)
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise TypeError("%s is a generator: a call of it would run nothing" % name)
    return found


def call(function):
    result = function()
    if inspect.iscoroutine(result):
        import asyncio
        asyncio.run(result)


def raised(error):
    """An exception as the runner wants it, without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == raised.__code__.co_filename:
        trace = trace.tb_next
    # What an exception says of itself may raise anything.
    try:
        parts = traceback.format_exception(type(error), error, trace)
        text = "".join(cut(part, LONGEST // 8) for part in parts)
    except BaseException:
        text = ""
    try:
        message = cut(str(error), LONGEST // 8)
    except BaseException:
        message = "(its message cannot be shown)"
    kind = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        kind = type(error).__module__ + "." + kind
    # As JSON in ASCII a character takes at most twelve bytes.
    while len(json.dumps(text)) > LONGEST // 2:
        text = text[len(text) // 4:]
    while len(json.dumps(message)) > LONGEST // 4:
        message = message[:len(message) * 3 // 4]
    return {"type": kind[:200], "message": message, "traceback": text}


def cut(text, most):
    """Not too long, and without the halves of characters that no UTF-8 can say."""
    if len(text) > most:
        text = "%s ... %s" % (text[:most * 3 // 4], text[-most // 4:])
    return text.encode("utf-8", "backslashreplace").decode()


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def mend_streams():
    """The next run has standard streams, whatever this one did to them."""
    for descriptor, identity in enumerate(IDENTITIES):
        try:
            if os.fstat(descriptor)[1:3] == identity:
                continue
        except OSError:
            pass
        os.dup2(STANDARD[descriptor], descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(getattr(sys, name), "closed", True):
            setattr(sys, name, open(descriptor, "w", 1, errors="backslashreplace", closefd=False))


class Django:
    """What a web process does around each request: connections that broke are not used again."""

    def __init__(self):
        self.db = None
        if os.environ.get("DJANGO_SETTINGS_MODULE"):
            import django
            django.setup()
            from django import db
            self.db = db

    def around(self):
        if self.db is not None:
            self.db.reset_queries()
            self.db.close_old_connections()

    def let_go(self):
        if self.db is not None:
            self.db.connections.close_all()


def execute(name, django):
    """Runs a task in this process; what it raised, or None."""
    try:
        django.around()
        if name not in FUNCTIONS:
            FUNCTIONS[name] = find(name)
        call(FUNCTIONS[name])
    except BaseException as error:
        if os.getpid() != PID:
            leave(error)
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            return raised(error)
    else:
        if os.getpid() != PID:
            leave(None)
    finally:
        try:
            django.around()
        except Exception:
            traceback.print_exc()
        flush()
        mend_streams()
    return None


def leave(error):
    """The end of a child that the function forked and that came out of it: the run is its parent's."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    flush()
    os._exit(code & 255)


def execute_in_child(name, django):
    """Runs a task in a child forked out of this process: what it leaks and breaks stays there."""
    global PID
    django.let_go()
    flush()
    # Memory that both see: nobody waits for anybody but for the child's end.
    made = os.memfd_create("report")
    paper = out_of_the_way(made)
    os.close(made)
    child = os.fork()
    if child == 0:
        code, PID = 1, os.getpid()
        try:
            os.write(paper, json.dumps(execute(name, django)).encode())
            code = 0
        finally:
            flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    said = os.pread(paper, 2 * LONGEST, 0)
    os.close(paper)
    if status == 0 and said:
        return json.loads(said)
    how = ("was killed by signal %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status)
           else "exited with status %d" % os.WEXITSTATUS(status))
    return {"type": "ChildProcessError", "message": "the child that ran it " + how, "traceback": ""}


def lines():
    """The runner's requests, until it closes its end."""
    kept = b""
    while True:
        data = os.read(REQUESTS, 64 * 1024)
        if not data:
            return
        kept += data
        while b"\n" in kept:
            line, kept = kept.split(b"\n", 1)
            yield line.decode()


FUNCTIONS = {}


def main():
    say("HELLO 1 python " + sys.version.split()[0])
    # The runner's signals end a worker, whichever they are.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv = ["runner-worker"]
    sys.path[:] = [os.getcwd()] + [folder for folder in sys.path if folder not in ("", os.getcwd())]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    provide_yourlabs()
    django = Django()
    ready = {"tasks": {}, "errors": {}}
    for name in os.environ.get("RUNNER_CALLS", "").split():
        try:
            function = FUNCTIONS[name] = find(name)
            inner = function
            while isinstance(inner, functools.partial):
                inner = inner.func
            options = {key: seconds(key, getattr(inner, key, None)) for key in OPTIONS}
            options = {k: v for k, v in options.items() if v is not None}
            if options:
                ready["tasks"][name] = options
        except BaseException as error:
            FUNCTIONS.pop(name, None)
            told = raised(error)
            ready["errors"][name] = {"type": told["type"], "message": told["message"][:1000]}
        if len(json.dumps(ready)) > LONGEST // 2:
            say("TASKS", ready)
            ready = {"tasks": {}, "errors": {}}
    flush()
    say("READY", ready)
    run = execute_in_child if FORK else execute
    for line in lines():
        word, _, rest = line.partition(" ")
        if word == "RUN":
            number, _, name = rest.partition(" ")
            failure = run(name, django)
            say("DONE " + number) if failure is None else say("FAIL " + number, failure)
        elif word == "PING":
            say("PONG")
        elif word == "STOP":
            break
        elif word != "UNSUPPORTED":
            say("UNSUPPORTED " + word)
    try:
        django.let_go()
        say("BYE")
    except OSError:
        pass


main()
