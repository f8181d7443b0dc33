"""Is a resource one that Kubernetes takes? Its own schemas, as kubernetes_validate brings them; CRDs' by hand."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import kubernetes_validate
from jsonschema import Draft202012Validator
from kubernetes_validate import utils

from tests.deploy.rendering import OLDEST

VERSIONS: Final = (OLDEST, kubernetes_validate.latest_version())

# It reads two megabytes of definitions again for every resource.
utils.schema_contents = cache(utils.schema_contents)


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


_TEXT: Final = {"type": "string", "minLength": 1}
_LABELS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_PROM_DURATION: Final = {"type": "string", "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$"}
_GO_DURATION: Final = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$"}
_METADATA: Final = _object(("name",), name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS)
_SECRET_OR_CONFIG_MAP: Final = _object(
    (), secret=_object(("key",), name=_TEXT, key=_TEXT), configMap=_object(("key",), name=_TEXT, key=_TEXT)
)
_RELABELING: Final = _object(
    (),
    sourceLabels=_list_of({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
    separator={"type": "string"},
    targetLabel=_TEXT,
    regex=_TEXT,
    modulus={"type": "integer"},
    replacement={"type": "string"},
    action={"enum": ["replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep"]},
)
_RULE: Final = {
    **_object(
        ("expr",),
        alert=_TEXT,
        record=_TEXT,
        expr=_TEXT,
        **{"for": _PROM_DURATION, "keep_firing_for": _PROM_DURATION},
        labels=_LABELS,
        annotations=_LABELS,
    ),
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
}
_ISSUER_REF: Final = _object(("name",), name=_TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=_TEXT)
_USAGES: Final = ["digital signature", "key encipherment", "server auth", "client auth", "cert sign", "crl sign"]

# The parts of them that are used here, as the CRDs of prometheus-operator 0.80 and cert-manager 1.17 have them.
_CRDS: Final = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _object(
        ("selector", "endpoints"),
        selector=_object((), matchLabels=_LABELS),
        endpoints=_list_of(
            _object(
                (),
                port=_TEXT,
                path=_TEXT,
                scheme={"enum": ["http", "https"]},
                interval=_PROM_DURATION,
                tlsConfig=_object(
                    (),
                    ca=_SECRET_OR_CONFIG_MAP,
                    cert=_SECRET_OR_CONFIG_MAP,
                    serverName=_TEXT,
                    insecureSkipVerify={"type": "boolean"},
                ),
                relabelings=_list_of(_RELABELING),
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        ("groups",),
        groups=_list_of(_object(("name", "rules"), name=_TEXT, interval=_PROM_DURATION, rules=_list_of(_RULE))),
    ),
    ("cert-manager.io/v1", "Issuer"): {
        **_object((), selfSigned=_object(), ca=_object(("secretName",), secretName=_TEXT)),
        "minProperties": 1,
        "maxProperties": 1,
    },
    ("cert-manager.io/v1", "Certificate"): _object(
        ("secretName", "issuerRef"),
        secretName=_TEXT,
        issuerRef=_ISSUER_REF,
        isCA={"type": "boolean"},
        commonName={"type": "string", "maxLength": 64},
        dnsNames=_list_of(_TEXT),
        ipAddresses=_list_of(_TEXT),
        duration=_GO_DURATION,
        renewBefore=_GO_DURATION,
        usages=_list_of({"enum": _USAGES}),
        privateKey=_object(
            (),
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
    ),
}


def complaint(resource: dict[str, Any], version: str) -> str | None:
    """Return what is wrong with a resource in that version of Kubernetes; None: nothing."""
    known = _CRDS.get((resource["apiVersion"], resource["kind"]))
    if known is not None:
        whole = _object(
            ("apiVersion", "kind", "metadata", "spec"), apiVersion=_TEXT, kind=_TEXT, metadata=_METADATA, spec=known
        )
        for error in Draft202012Validator(whole).iter_errors(resource):
            return f"{error.json_path}: {error.message}"
        return None
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    return None
