"""The line on a Prefect server: a deployment per configuration, with a schedule, on the work pools `cpu` and `gpu`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.types.entrypoint import EntrypointType

from flows.extract import extract
from flows.pipeline import mmgen_line
from flows.terminal import write
from flows.train import train
from mmgen.config import load
from mmgen.errors import ConfigError, OutsideError
from mmgen.store import Store

POOLS = {"cpu": "steps that run anywhere", "gpu": "flows that compute on a device, under a lease"}


def apply(config: Path, store: str, *, cron: str | None, gpu: bool, workers: int) -> dict[str, Any]:
    """Put the line of a configuration onto the server of `PREFECT_API_URL`, replacing its earlier deployment.

    The deployment carries the configuration's content, so that a worker anywhere can run it: deploy again after a
    change. One run at a time per data set; what comes meanwhile is cancelled. gpu: extract and train run on the pool
    `gpu`. Returns {"deployments", "pools", "cron", "start": the commands that start the pools' workers}.
    Raises ConfigError (no server configured, a cron line that is none), OutsideError.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise ConfigError(
            "PREFECT_API_URL: wanted the address of a Prefect server that stays, came nothing; "
            "`prefect server start` starts one at http://127.0.0.1:4200/api"
        )
    settings, opened = load(config), Store(store)
    parameters = {
        "config": settings.to_json(),
        "store": opened.base if opened.local else opened.uri,
        "options": {"workers": workers},
    }
    line = _line(settings.name, parameters, cron, gpu)
    there = [_elsewhere(flow, settings.name) for flow in (extract, train)] if gpu else []
    try:
        names = asyncio.run(_put([*there, line], list(POOLS) if gpu else ["cpu"]))
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise OutsideError(f"PREFECT_API_URL: the Prefect server at {url} did not take it: {error}") from error
    pools = list(POOLS) if gpu else ["cpu"]
    start = [f"prefect worker start --pool {pool} --type process" for pool in pools]
    return {"deployments": names[::-1], "pools": pools, "cron": cron, "start": start}


def _line(name: str, parameters: dict[str, Any], cron: str | None, gpu: bool) -> RunnerDeployment:
    there = {"elsewhere": {flow: f"{flow}/{name}-gpu" for flow in ("extract", "train")}} if gpu else {}
    try:
        return mmgen_line.to_deployment(  # type: ignore[return-value]
            name,
            parameters=parameters | there,
            cron=cron,
            work_pool_name="cpu",
            # a run that is still going on does the newcomer's work anyway, or the next firing does
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            entrypoint_type=EntrypointType.MODULE_PATH,
            description=f"The line of {name}: ingest to register.",
            tags=["mmgen", name],
        )
    except ValueError as error:
        raise ConfigError(f"--cron: {' '.join(str(error).split())[:300]}") from error


def _elsewhere(flow: Flow[Any, Any], name: str) -> RunnerDeployment:
    return flow.to_deployment(  # type: ignore[return-value]
        f"{name}-gpu",
        work_pool_name="gpu",
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=f"{flow.name} of {name}, under a device lease. The line starts it.",
        tags=["mmgen", name],
    )


async def _put(deployments: list[RunnerDeployment], pools: list[str]) -> list[str]:
    """Create what pools are missing, then create or replace the deployments. Returns flow/deployment names."""
    async with get_client() as client:
        for pool in pools:
            await _pool(client, pool)
    for deployment in deployments:
        await deployment.aapply()
    return [f"{each.flow_name}/{each.name}" for each in deployments]


async def _pool(client: PrefectClient, name: str) -> None:
    try:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process", description=POOLS[name]))
    except ObjectAlreadyExists:
        # a pool that is there may be of another type (a cluster's): it is the operator's
        return


def show_applied(answer: dict[str, Any]) -> None:
    """Print what was deployed, and how to start its workers."""
    for name in answer["deployments"]:
        write(f"deployed  {name}")
    write(f"schedule  {answer['cron'] or 'none: prefect deployment run ' + answer['deployments'][0]}")
    for command in answer["start"]:
        write(f"worker    {command}")
