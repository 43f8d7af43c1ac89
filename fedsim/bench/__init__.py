"""``fedsim bench``: four fixed workloads through the whole of ``fedsim run``, beside a bare loop in the same minutes.

workloads   what is run, as an ordinary scenario file with its data and model
bare        the same training without fedsim's engine: PEFT and Opacus, one bank after the other
child       one of the two in a process of its own
measure     starts it and watches time, CPU seconds and memory of all its processes
"""
