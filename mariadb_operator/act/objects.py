"""Makes and mends the objects of a cluster but Pods and EndpointSlices; checks what the spec refers to.

A mistake of the user's ends as InputProblem, which names field, value and remedy. Not for what the objects look like
(resources/), nor for certificates (trust.py) and volume claims (volumes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from mariadb_operator.act.credentials import Credentials, read_credentials
from mariadb_operator.act.ours import InputProblem, OwnObjects, made_for
from mariadb_operator.act.trust import Trust, TrustKeeper
from mariadb_operator.act.volumes import VolumeKeeper
from mariadb_operator.api.group import FIELD_MANAGER
from mariadb_operator.api.spec import MariaDBClusterSpec, PasswordRef
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    POD_DISRUPTION_BUDGET,
    PVC,
    SECRET,
    SERVICE,
    Manifest,
)
from mariadb_operator.kube.store import Store
from mariadb_operator.resources import secrets as passwords
from mariadb_operator.resources.budget import disruption_budget
from mariadb_operator.resources.configmap import (
    ConfigMapKeyMissing,
    config_map,
    supervisor_script,
    user_configuration,
)
from mariadb_operator.resources.configuration import server_configuration, violations
from mariadb_operator.resources.keys import ssh_secret
from mariadb_operator.resources.labels import Owner
from mariadb_operator.resources.services import instances_service, primary_service, replicas_service
from mariadb_operator.resources.template import resolved_image, template_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """What Pods and connections need of the objects."""

    config_map: str
    image: str
    template_hash: str
    credentials: Credentials = field(repr=False)
    generated: Manifest = field(
        repr=False, compare=False
    )  # the Secret as written: a deleted one comes back so
    trust: Trust = field(repr=False, compare=False)
    ssh: Manifest | None = field(
        default=None, repr=False, compare=False
    )  # the Secret as written; None: no sidecars
    sidecar_image: str = ""
    notices: tuple[InputProblem, ...] = ()  # what stands in the way of something, but not of the cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the building of objects takes from outside."""

    image_template: str
    cluster_domain: str
    now: Callable[[], datetime]
    sidecar_image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCaches:
    """The reflected kinds that a cluster's objects are of."""

    pods: Store
    claims: Store
    services: Store
    config_maps: Store
    secrets: Store
    budgets: Store


class ObjectKeeper:
    """Ensures the objects of one cluster."""

    def __init__(
        self, client: KubeClient, owner: Owner, *, environment: Environment, caches: ObjectCaches
    ) -> None:
        self._client = client
        self._owner = owner
        self._environment = environment
        self._caches = caches
        self._own = OwnObjects(
            client,
            owner,
            known={
                SERVICE: caches.services,
                CONFIG_MAP: caches.config_maps,
                SECRET: caches.secrets,
                POD_DISRUPTION_BUDGET: caches.budgets,
                PVC: caches.claims,
            },
        )
        self._trust = TrustKeeper(self._own, cluster_domain=environment.cluster_domain, now=environment.now)
        self._volumes = VolumeKeeper(client, self._own, claims=caches.claims)

    async def ensure(
        self, spec: MariaDBClusterSpec, *, known: Objects | None, image: str, served: bool
    ) -> Objects:
        """Make everything stand as the spec wants it.

        `known`: from the last time; Secrets that somebody deleted or edited since come back as they were.
        `image`: the one resolved for this version earlier, kept while the spec's version stays; empty: resolved anew.
        `served`: an epoch has begun, so the servers have accounts with passwords already.

        Raises InputProblem for the user's mistakes, and what the client raises.
        """
        await self._volumes.check_storage_class(spec)
        my_cnf = await self._user_my_cnf(spec)
        if spec.root_password_secret_key_ref is not None:
            await self._password(spec.root_password_secret_key_ref, "spec.rootPasswordSecretKeyRef")
        generated = await self._credentials(spec, known, served=served)
        application = await self._application_password(spec, generated)
        trust = await self.certify(spec, known=known.trust if known is not None else None)
        app = passwords.app_secret(
            self._owner, spec, password=application, ca_certificate=trust.ca_certificate
        )
        if app is not None:
            await self._own.apply(app)
        configuration = await self._own.apply(
            config_map(
                self._owner,
                my_cnf=server_configuration(user_text=my_cnf, port=spec.port),
                supervisor=supervisor_script(),
            )
        )
        for build in (primary_service, replicas_service, instances_service):
            await self._apply_service(build(self._owner, spec))
        ssh = await self._keys(known)
        await self._own.apply(disruption_budget(self._owner))
        notices = await self._volumes.keep(spec)
        name = configuration["metadata"]["name"]
        await self._collect_config_maps(keep=name)
        return Objects(
            config_map=name,
            image=image or resolved_image(spec, template=self._environment.image_template),
            template_hash=template_hash(spec, user_my_cnf=my_cnf),
            credentials=read_credentials(generated, trust.secret, application_password=application),
            generated=generated,
            trust=trust,
            ssh=ssh,
            sidecar_image=self._environment.sidecar_image,
            notices=notices,
        )

    async def _keys(self, known: Objects | None) -> Manifest | None:
        if not self._environment.sidecar_image:
            return None
        current = await self._own.read_ours(SECRET, self._owner.names.ssh_secret)
        if current is None and known is not None:
            current = known.ssh
        return await self._own.apply(ssh_secret(self._owner, current=current))

    async def certify(self, spec: MariaDBClusterSpec, *, known: Trust | None) -> Trust:
        """A certificate that names the addresses which the cluster's Pods have now. Raises InputProblem."""
        owner = self._owner
        found = (
            (pod.get("status") or {}).get("podIP")
            for pod in self._caches.pods.by_cluster(owner.namespace, owner.name)
        )
        return await self._trust.ensure(
            spec, known=known, addresses=frozenset(address for address in found if address)
        )

    async def _apply_service(self, manifest: Manifest) -> None:
        applied = await self._own.apply(manifest)
        if "selector" in applied["spec"] and "selector" not in manifest["spec"]:
            # Apply takes no field away that another manager added; with a selector others would write endpoints.
            metadata = applied["metadata"]
            await self._client.patch_merge(
                SERVICE,
                metadata["namespace"],
                metadata["name"],
                patch={
                    "metadata": {"resourceVersion": metadata["resourceVersion"]},
                    "spec": {"selector": None},
                },
                field_manager=FIELD_MANAGER,
            )

    async def _user_my_cnf(self, spec: MariaDBClusterSpec) -> str:
        reference = spec.my_cnf_config_map_key_ref
        referred = None
        if reference is not None:
            referred = await self._own.read(CONFIG_MAP, reference.name)
            if referred is None:
                raise InputProblem(
                    "ConfigMapMissing",
                    f"spec.myCnfConfigMapKeyRef: ConfigMap {reference.name!r} does not exist in namespace"
                    f" {self._owner.namespace}; create it with key {reference.key!r}",
                )
        try:
            text = user_configuration(spec, referred=referred)
            from_map = user_configuration(spec.model_copy(update={"my_cnf": None}), referred=referred)
        except ConfigMapKeyMissing as error:
            raise InputProblem("ConfigMapKeyMissing", str(error)) from error
        if reference is not None:
            _check_options("spec.myCnfConfigMapKeyRef", from_map)
        _check_options("spec.myCnf", spec.my_cnf or "")
        return text

    async def _password(self, reference: PasswordRef, where: str) -> str:
        secret = await self._own.read(SECRET, reference.name)
        if secret is None:
            raise InputProblem(
                "SecretMissing",
                f"{where}: Secret {reference.name!r} does not exist in namespace {self._owner.namespace}; create it"
                f" with key {reference.key!r}",
            )
        try:
            return passwords.password_in(secret, reference.key)
        except passwords.SecretKeyMissing as error:
            raise InputProblem("SecretKeyMissing", f"{where}: {error}") from error

    async def _credentials(
        self, spec: MariaDBClusterSpec, known: Objects | None, *, served: bool
    ) -> Manifest:
        name = self._owner.names.credentials_secret
        current = known.generated if known is not None else await self._own.read_ours(SECRET, name)
        if served and (lost := passwords.lost_keys(spec, current)):
            raise InputProblem(
                "CredentialsLost",
                f"Secret {name} has lost {', '.join(lost)}, with which the servers' accounts were made; new ones would"
                " lock everybody out. Restore the Secret from a backup. A running Pod still has"
                " operator-password, probe-password and root-password in /etc/mariadb-operator/secrets",
            )
        return await self._own.apply(
            passwords.credentials_secret(
                self._owner, spec, current=current, new_password=passwords.random_password
            )
        )

    async def _application_password(self, spec: MariaDBClusterSpec, generated: Manifest) -> str:
        if spec.username is None:
            return ""
        if spec.password_secret_key_ref is not None:
            return await self._password(spec.password_secret_key_ref, "spec.passwordSecretKeyRef")
        return passwords.secret_text(generated, passwords.APP_PASSWORD)

    async def _collect_config_maps(self, *, keep: str) -> None:
        """Delete our ConfigMaps that no Pod of the cluster mounts any more."""
        owner = self._owner
        mounted = {
            volume["configMap"]["name"]
            for pod in self._caches.pods.by_cluster(owner.namespace, owner.name)
            for volume in pod["spec"].get("volumes") or []
            if "configMap" in volume
        }
        for manifest in self._caches.config_maps.by_cluster(owner.namespace, owner.name):
            if made_for(manifest, owner) and manifest["metadata"]["name"] not in mounted | {keep}:
                await self._own.delete(manifest)


def _check_options(where: str, text: str) -> None:
    """Raises InputProblem for an option that is not the person's to set."""
    for found in violations(text):
        raise InputProblem(
            "OptionOwned", f"{where}, line {found.line}, option {found.option!r}: {found.message}"
        )
