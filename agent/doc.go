// Package agent is the per-node daemon: it runs the sources, turns what they
// observe into findings, and lets both out as metrics and as reports.
//
// It decides what of a source is still current: one that fails, or is silent for
// too long, is coverage unknown, and nothing of what it said before is shown as
// its present state. It refuses to act on anything: it observes, reports and
// answers. A source that hangs holds up neither the others, nor /metrics, nor
// the reports.
package agent
