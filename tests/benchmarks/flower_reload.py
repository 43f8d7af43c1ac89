"""The workload of ``reload`` in Flower, as its FlowerTune example has it: every fit loads and quantises the base.

Run by ``reload`` in an environment of its own (flwr[simulation], torch, transformers, peft, bitsandbytes); its argument
is the workload as JSON. A plain loop stands for the Hugging Face Trainer of the example, which only costs more. Prints
the Unix times of the start and of the end of each round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

if __name__ == "__main__":
    os.environ["RELOAD"] = sys.argv[1]  # Ray's workers import this file
WORK: dict[str, Any] = json.loads(os.environ["RELOAD"])


def build() -> Any:
    """The quantised base with PEFT's layers, as a client of the example makes it."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    quantised = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForSequenceClassification.from_pretrained(
        WORK["model"], num_labels=2, quantization_config=quantised
    )
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    config = LoraConfig(r=WORK["r"], lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS")
    return get_peft_model(base, config)


def fit(model: Any, bank: int) -> None:
    """Plain SGD on rows of random tokens."""
    import torch

    torch.set_num_threads(1)
    draws = torch.Generator().manual_seed(bank)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.01)
    for _ in range(WORK["steps"]):
        ids = torch.randint(1000, 20000, (WORK["rows"], WORK["tokens"]), generator=draws)
        labels = torch.randint(0, 2, (WORK["rows"],), generator=draws)
        optimizer.zero_grad()
        torch.autograd.backward(model(input_ids=ids, labels=labels).loss)
        optimizer.step()


def apps() -> tuple[Any, Any]:
    """(client, server)"""
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Any, context: Any) -> Any:
        model = build()
        set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
        fit(model, context.node_config["partition-id"])
        content = {
            "arrays": ArrayRecord(get_peft_model_state_dict(model)),
            "metrics": MetricRecord({"num-examples": WORK["steps"] * WORK["rows"]}),
        }
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Any, _: Any) -> None:
        times: list[float] = []
        FedAvg(fraction_evaluate=0.0, min_train_nodes=WORK["banks"], min_available_nodes=WORK["banks"]).start(
            grid=grid,
            initial_arrays=ArrayRecord(get_peft_model_state_dict(build())),
            num_rounds=WORK["rounds"],
            train_config=ConfigRecord(),
            evaluate_fn=lambda round_, arrays: times.append(time.time()),
        )
        print(json.dumps(times), flush=True)

    return client, server


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    actors = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    app, serve = apps()
    run_simulation(serve, app, num_supernodes=WORK["banks"], backend_config=actors)
