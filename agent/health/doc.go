// Package health turns observations into findings. It decides when a finding
// begins, when it is confirmed, which other finding explains it, and what ends
// it, by the rules of the catalogue.
//
// It refuses shortcuts: absence of a finding's evidence ends nothing, an unknown
// observation neither confirms nor ends anything, and an observation that nobody
// vouches for (a kernel log record that any user can write) is shown, and neither
// confirms, nor ends, nor explains, nor changes what the finding of a vouched
// observation asks for. The same holds for what a simulated observation could do
// to a real finding.
//
// The package is pure: values and a time in, values out. It reads no clock.
package health
