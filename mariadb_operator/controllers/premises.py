"""What is known of one cluster beside its record: spec, objects, credentials, and what a person has to mend in them.

Not for reading servers (contacts.py) nor for making objects (act.objects).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from mariadb_operator.act.credentials import Credentials, CredentialsMissing, read_credentials
from mariadb_operator.act.objects import Objects
from mariadb_operator.act.ours import InputProblem, is_ours
from mariadb_operator.act.trust import Trust
from mariadb_operator.api.cluster import InvalidSpec, read_spec
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.kube.store import Store
from mariadb_operator.resources.keys import SshKeys, read_keys
from mariadb_operator.resources.labels import Owner
from statemachines.effects import Effect

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 600.0  # at the objects, without a reason
NOTICED_SECONDS = 30.0  # while something waits for a person


class Premises:
    """Of one resource, under one leader."""

    def __init__(self, owner: Owner, *, secrets: Store) -> None:
        self.owner = owner
        self.spec: MariaDBClusterSpec | None = None
        self.objects: Objects | None = None
        self.made_for: MariaDBClusterSpec | None = None  # the spec that the objects were made for
        self.objects_due = True
        self.objects_at = 0.0
        self.invalid: InputProblem | None = None  # the spec can't be read; an earlier one may be in force
        self.blocking: InputProblem | None = None  # objects can't be made
        self.refused: dict[Effect, InputProblem] = {}  # effects that a person's objects stand in the way of
        self._application: tuple[object, ...] = ()  # as it was last seen to on the primary
        self._secrets = secrets
        self._generation = -1
        self._resolved: tuple[str | None, str | None, str] | None = None
        self._found: Credentials | None = None

    def read(self, resource: Manifest) -> bool:
        """Take the spec of the resource; whether it is another than before."""
        metadata = resource["metadata"]
        changed = bool(metadata.get("generation", 0) != self._generation)
        self._generation = metadata.get("generation", 0)
        self.objects_due = self.objects_due or changed
        if not changed and self.invalid is None and self.spec is not None:
            return False
        try:
            self.spec, self.invalid = read_spec(resource), None
        except InvalidSpec as error:
            self.invalid = InputProblem("InvalidSpec", str(error))
            logger.warning("%s/%s: %s", self.owner.namespace, self.owner.name, error)
        if self._resolved is None and self.spec is not None:
            status = resource.get("status") or {}
            if status.get("image") and status.get("observedGeneration") == self._generation:
                self._resolved = (self.spec.image, self.spec.version, str(status["image"]))
        return changed

    @property
    def image(self) -> str:
        """The image resolved for the spec's version; empty: it has to be resolved."""
        if self._resolved is None or self.spec is None:
            return ""
        *asked, image = self._resolved
        return image if asked == [self.spec.image, self.spec.version] else ""

    def stand(self, spec: MariaDBClusterSpec, objects: Objects, *, now: float) -> None:
        """The objects were made as that spec wants them."""
        self.objects, self.made_for, self.objects_at, self.blocking = objects, spec, now, None
        self._resolved = (spec.image, spec.version, objects.image)

    def note_trust(self, trust: Trust) -> None:
        """The servers' certificate was made anew."""
        if self.objects is not None:
            self.objects = replace(self.objects, trust=trust)

    @property
    def application_due(self) -> bool:
        """Whether the application's account has to be seen to: once under each leader, and when the spec or Secret changed."""
        return self.objects is not None and self.application_wanted() not in ((), self._application)

    def note_application(self, kept: tuple[object, ...]) -> None:
        """The account is as `kept`, which was wanted when it was asked for."""
        self._application = kept

    def application_wanted(self) -> tuple[object, ...]:
        """Database, user and password; empty where no account is asked for."""
        spec = self.made_for
        if spec is None or spec.username is None or self.objects is None:
            return ()
        return (spec.database, spec.username, self.objects.credentials.application_password)

    def look_again(self, *, now: float) -> None:
        """Have the objects looked at when it is time."""
        waiting = self.objects is not None and self.objects.notices
        if now - self.objects_at > (NOTICED_SECONDS if waiting else LOOK_AGAIN_SECONDS):
            self.objects_due = True

    @property
    def problem(self) -> InputProblem | None:
        """What a person has to mend, the gravest first."""
        notices = self.objects.notices if self.objects is not None else ()
        found = (self.invalid, self.blocking, *self.refused.values(), *notices)
        return next((each for each in found if each is not None), None)

    @property
    def ssh(self) -> SshKeys | None:
        """The keys of the cluster's sidecars; None when it has none."""
        secret = self.objects.ssh if self.objects is not None else self._cached_keys()
        return read_keys(secret) if secret is not None else None

    def _cached_keys(self) -> Manifest | None:
        names = self.owner.names
        secret = self._secrets.get(names.namespace, names.ssh_secret)
        return secret if secret is not None and is_ours(secret, self.owner) else None

    @property
    def credentials(self) -> Credentials | None:
        """From the objects, or before they were looked at from the Secrets that are there; None when there are none.

        The latter know no application's password.
        """
        if self.objects is not None:
            return self.objects.credentials
        if self._found is None:
            self._found = self._read_cached()
        return self._found

    def _read_cached(self) -> Credentials | None:
        names = self.owner.names
        generated = self._secrets.get(names.namespace, names.credentials_secret)
        tls = self._secrets.get(names.namespace, names.tls_secret)
        if (
            generated is None
            or tls is None
            or not (is_ours(generated, self.owner) and is_ours(tls, self.owner))
        ):
            return None
        try:
            return read_credentials(generated, tls, application_password="")
        except CredentialsMissing as error:
            logger.info("%s/%s: %s", self.owner.namespace, self.owner.name, error)
            return None
