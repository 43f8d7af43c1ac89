"""Jobs of a Ray cluster, over its Jobs API: send one, read along, and say how it ended.

The API is asked over HTTP, so no Ray process is started here. Every method raises ResourceError when the cluster cannot
be reached, refuses the token, or does not know the job.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedsim.core.errors import ResourceError

STOPPED_EXIT, UNKNOWN_EXIT = 143, 70


class Jobs:
    """The jobs of the cluster at ``address`` (http://host:8265; None: what Ray's environment variables name)."""

    def __init__(self, address: str | None = None) -> None:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)
        self._address = f"the Ray cluster at {address or os.environ.get('RAY_API_SERVER_ADDRESS', 'RAY_ADDRESS')}"
        with self._asked():
            self._client = JobSubmissionClient(address)

    def submit(
        self, job: str, entrypoint: str, working_dir: str, excludes: Sequence[str], metadata: Mapping[str, str]
    ) -> None:
        """Send a job under a name that no earlier one has."""
        environment = {"working_dir": working_dir, "excludes": list(excludes)}
        with self._asked():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=environment, metadata=dict(metadata)
            )

    def lines(self, job: str) -> Iterator[str]:
        """What the job has printed, then what it prints, until it ends."""
        rest = ""
        with self._asked(), asyncio.Runner() as runner:
            self._client.get_job_status(job)
            chunks = self._client.tail_job_logs(job)
            while (chunk := runner.run(anext(chunks, None))) is not None:
                *whole, rest = (rest + chunk).split("\n")
                yield from whole
        if rest:
            yield rest

    def ended(self, job: str) -> tuple[str, int]:
        """(how a job ended in words, the exit code of its command); 143 for one that was stopped."""
        with self._asked():
            info = self._client.get_job_info(job)
        status, code = str(info.status), info.driver_exit_code
        if status == "SUCCEEDED":
            return f"{job} succeeded", 0
        if status == "STOPPED":
            return f"{job} was stopped", STOPPED_EXIT
        return f"{job}: {status.lower()}, exit code {code}", code or UNKNOWN_EXIT

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """The client has no errors of its own: RuntimeError is any answer but 200, ConnectionError is none."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or keep the token in ~/.ray/auth_token"
            raise ResourceError(f"{self._address} takes nobody without its token; {remedy}") from error
        except (RuntimeError, ConnectionError, ValueError) as error:
            reason = " ".join(str(error).removeprefix("Request failed with status code ").split())[:300]
            raise ResourceError(f"{self._address} answers: {reason}") from error
