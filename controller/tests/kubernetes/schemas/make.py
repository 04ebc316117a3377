"""Makes schemas.json.gz beside this file: what the tests need of the published schemas, and no descriptions.

    make.py DEFINITIONS JOBSET PYTORCHJOB VOLCANO_JOB VOLCANO_COMMAND

DEFINITIONS is _definitions.json of Kubernetes' OpenAPI as JSON Schema; the others are the CustomResourceDefinitions. Where a
CRD repeats the schema of a pod template word by word, the file refers to Kubernetes' own instead.
"""

import gzip
import json
import sys
from pathlib import Path

import yaml

ROOTS = [
    "io.k8s.api.core.v1.Node",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
]
PREFIX = "#/definitions/"
OBJECT_META = {"$ref": PREFIX + "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
POD_TEMPLATE = {"$ref": PREFIX + "io.k8s.api.core.v1.PodTemplateSpec"}


def bare(schema, names=False):
    """A schema without words for people. `names`: the keys are names of properties."""
    if isinstance(schema, list):
        return [bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and not names:
        return {"$ref": PREFIX + schema["$ref"].rsplit("/", 1)[-1]}
    drop = () if names else ("description", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations",
                             "x-kubernetes-map-type", "default")
    return {key: bare(value, key == "properties") for key, value in schema.items() if key not in drop}


def references(schema):
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rsplit("/", 1)[-1]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def with_pod_templates(schema):
    """Puts Kubernetes' own schema where a pod template is spelled out."""
    if isinstance(schema, list):
        return [with_pod_templates(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties", {})
    containers = properties.get("spec", {}).get("properties", {}).get("containers") if isinstance(properties, dict) else None
    if containers and set(properties) <= {"metadata", "spec"}:
        return POD_TEMPLATE
    return {key: with_pod_templates(value) for key, value in schema.items()}


def custom(path, version):
    crd = yaml.safe_load(Path(path).read_text())
    [schema] = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == version]
    schema = with_pod_templates(bare(schema))
    schema["properties"]["metadata"] = OBJECT_META
    return schema


def main():
    definitions = json.loads(Path(sys.argv[1]).read_text())["$defs"]
    kept = {
        "JobSet": custom(sys.argv[2], "v1alpha2"),
        "PyTorchJob": custom(sys.argv[3], "v1"),
        "Job": custom(sys.argv[4], "v1alpha1"),
        "Command": custom(sys.argv[5], "v1alpha1"),
    }
    wanted = ROOTS + [name for schema in kept.values() for name in references(schema)]
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = bare(definitions[name])
            wanted.extend(references(kept[name]))
    text = json.dumps({"definitions": kept}, sort_keys=True, separators=(",", ":"))
    with gzip.GzipFile(Path(__file__).with_name("schemas.json.gz"), "wb", mtime=0) as out:
        out.write(text.encode())


if __name__ == "__main__":
    main()
