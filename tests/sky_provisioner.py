"""SkyPilot's provisioners in a process of their own: JSON requests on stdin, JSON answers on stdout, one a line.

A request is `{"do": function of `PROVISION` below, "provider": ..., "arguments": {...}, "within_s": ...}`; the answer
`{"result": ...}`, `{"error": ...}`, or `{"late": true}` where the function has not returned within that time. The
address of the Lambda API is the first argument: SkyPilot has no setting for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from typing import Any

# What SkyPilot prints must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from sky.provision import common  # noqa: E402
from sky.provision.lambda_cloud import instance as lambda_instance  # noqa: E402
from sky.provision.lambda_cloud import lambda_utils  # noqa: E402
from sky.provision.runpod import instance as runpod_instance  # noqa: E402
from sky.provision.runpod import utils as runpod_utils  # noqa: E402
from sky.provision.vast import instance as vast_instance  # noqa: E402

PROVISION: dict[str, Any] = {"lambda": lambda_instance, "runpod": runpod_instance, "vast": vast_instance}


def main(lambda_endpoint: str) -> None:
    lambda_utils.API_ENDPOINT = lambda_endpoint
    lambda_utils.INITIAL_BACKOFF_SECONDS = 0.05  # of 10 s, where it is told to slow down
    answer({"result": runpod_utils.GPU_NAME_MAP})
    for line in sys.stdin:
        answer(work(json.loads(line)))


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run one function in a thread, since SkyPilot waits without end for some things."""
    done: dict[str, Any] = {}

    def run() -> None:
        try:
            done["result"] = call(request["do"], request["provider"], request["arguments"])
        except Exception as fault:
            done["error"] = f"{type(fault).__name__}: {fault}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(request["within_s"])
    return done or {"late": True}


def call(function: str, provider: str, arguments: dict[str, Any]) -> Any:
    """A result as plain JSON values."""
    if function == "register_ssh_key":
        return lambda_utils.LambdaCloudClient().register_ssh_key(**arguments)
    if "config" in arguments:
        arguments["config"] = common.ProvisionConfig(**arguments["config"])
    result = getattr(PROVISION[provider], function)(**arguments)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return json.loads(json.dumps(dataclasses.asdict(result), default=str))
    if function == "query_instances":
        return {each: status.value for each, (status, _) in result.items()}
    return result


def answer(content: dict[str, Any]) -> None:
    ANSWERS.write(json.dumps(content) + "\n")
    ANSWERS.flush()


if __name__ == "__main__":
    main(sys.argv[1])
