"""A run as JUnit XML: a test suite per model, a test case per question, as CI servers show them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from onnxopt.ci.results import Finding, Outcome, Result
from onnxopt.speed.forms import xml_text

CHECKS = {"accuracy": ("accuracy",), "speed": ("speed", "noise"), "size": ("size",)}
"""Test case to the findings that fail it."""


def junit(result: Result) -> str:
    """The XML."""
    root = ET.Element("testsuites", name="onnxopt ci", time=f"{result.seconds:.3f}")
    for outcome in result.outcomes:
        root.append(_suite(outcome, result))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(outcome: Outcome, result: Result) -> ET.Element:
    suite = ET.Element("testsuite", name=outcome.name, time=f"{outcome.seconds:.3f}", timestamp=result.started)
    failures = {check for checks in CHECKS.values() for check in checks}
    errors = [finding for finding in outcome.findings if finding.check not in failures]
    measured = {"accuracy": outcome.accuracy is not None, "speed": bool(outcome.speed), "size": bool(outcome.bytes)}
    for check, kinds in CHECKS.items():
        found = [finding for finding in outcome.findings if finding.check in kinds]
        case = _case(suite, outcome, check)
        if found:
            _say(case, "failure", found)
        elif not measured[check]:
            ET.SubElement(case, "skipped", message=xml_text("; ".join(outcome.notes) or "not measured"))
    if errors:
        _say(_case(suite, outcome, "run"), "error", errors)
    suite.set("tests", str(len(suite)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(len(suite.findall(f"testcase/{tag}"))))
    return suite


def _case(suite: ET.Element, outcome: Outcome, check: str) -> ET.Element:
    case = ET.SubElement(
        suite, "testcase", name=check, classname=f"onnxopt.{outcome.name}", file=xml_text(outcome.path)
    )
    lines = [outcome.accuracy.line] if check == "accuracy" and outcome.accuracy else []
    lines += [f"{found.where}: {found.line()}" for found in outcome.speed if check == "speed"]
    lines += [f"{outcome.bytes[1]} bytes"] if check == "size" and outcome.bytes else []
    if lines:
        ET.SubElement(case, "system-out").text = xml_text("\n".join(lines))
    return case


def _say(case: ET.Element, tag: str, findings: list[Finding]) -> None:
    sentences = xml_text("\n".join(finding.sentence for finding in findings))
    said = ET.Element(
        tag, message=sentences.splitlines()[0] if sentences else tag, type=f"exit code {findings[0].code}"
    )
    said.text = sentences
    case.insert(0, said)
