package health

import (
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

const (
	// maxEvidenceBytes bounds the evidence in all findings together, so that a
	// report of them stays below fault.MaxReportBytes. Only a node with dozens of
	// faults at once comes near it.
	maxEvidenceBytes = 640 << 10
	// shedText is what remains of each text above that bound, in bytes.
	shedText = 128
	// evidenceOverhead is the size of one piece of evidence as JSON without its text.
	evidenceOverhead = 256
	// maxJSONEscape is how many bytes JSON may write for one byte of text.
	maxJSONEscape = 6
)

// shed cuts the evidence of every finding to the first and the last piece if
// together they are too large for a report.
func shed(findings []fault.Finding) []fault.Finding {
	size := 0
	for i := range findings {
		for _, e := range findings[i].Evidence {
			size += evidenceOverhead + maxJSONEscape*len(e.Text)
		}
		if by := findings[i].ClearedBy; by != nil {
			size += evidenceOverhead + maxJSONEscape*len(by.Text)
		}
	}
	if size <= maxEvidenceBytes {
		return findings
	}
	for i := range findings {
		f := &findings[i]
		if n := len(f.Evidence); n > 2 {
			f.Evidence = append(f.Evidence[:1], f.Evidence[n-1])
		}
		for j := range f.Evidence {
			f.Evidence[j].Text = cut(f.Evidence[j].Text)
		}
		if f.ClearedBy != nil {
			by := *f.ClearedBy
			by.Text = cut(by.Text)
			f.ClearedBy = &by
		}
	}
	return findings
}

func cut(text string) string {
	if len(text) <= shedText {
		return text
	}
	return strings.ToValidUTF8(text[:shedText], "")
}
