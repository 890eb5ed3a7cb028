"""Whether the CustomResourceDefinition in the cluster knows every field that this operator writes.

The API server prunes what an older one does not know, silently: a status would lose what keeps data safe. So this
process does not lead while it is older. Not for applying it (deploy/kustomize/crds is).
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from mariadb_operator.api.crd import missing_fields
from mariadb_operator.api.group import CRD_NAME
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.kinds import CUSTOM_RESOURCE_DEFINITION
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError, Permanent

logger = logging.getLogger(__name__)

FITS_SECONDS = 60.0
UNFIT_SECONDS = 5.0


class DefinitionCheck:
    """Looks again and again; run `run()` as an owned task.

    Attributes:
        fits: set while the definition is known to have every field.
        unfit: set while it is known not to.
        problem: what a person has to do; empty while it fits.
    """

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self.fits = asyncio.Event()
        self.unfit = asyncio.Event()
        self.problem = "the CustomResourceDefinition was not looked at yet"
        self._client = client
        self._clock = clock

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            await self._look()
            await self._clock.sleep(UNFIT_SECONDS if self.problem else FITS_SECONDS)

    async def _look(self) -> None:
        try:
            live = await self._client.get(CUSTOM_RESOURCE_DEFINITION, None, CRD_NAME)
        except Permanent as error:
            self._conclude(f"the CustomResourceDefinition {CRD_NAME} can't be read: {error}")
            return
        except OperatorError as error:
            # Says nothing of the definition: whoever leads goes on, nobody begins.
            logger.warning("the CustomResourceDefinition %s could not be looked at: %s", CRD_NAME, error)
            return
        missing = missing_fields(live)
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            self._conclude(
                f"the CustomResourceDefinition {CRD_NAME} is older than this operator: it does not know {some}."
                " Apply the one of this release (deploy/kustomize/crds); until then this operator does not lead"
            )
        else:
            self._conclude("")

    def _conclude(self, problem: str) -> None:
        if problem != self.problem:
            if problem:
                logger.error("%s", problem)
            else:
                logger.info("the CustomResourceDefinition %s knows all that this operator writes", CRD_NAME)
        self.problem = problem
        for event, holds in ((self.fits, not problem), (self.unfit, bool(problem))):
            if holds:
                event.set()
            else:
                event.clear()
