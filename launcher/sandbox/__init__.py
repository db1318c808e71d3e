"""The sandbox cloud: Lambda, RunPod and vast.ai emulated on this machine; a launch can be rehearsed for nothing.

Nothing else imports it, except its own commands: what talks to a cloud cannot tell that it talks to this one.
"""
