package command

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// The outcomes of a call.
const (
	outcomeDone     = "done"
	outcomeRefused  = "refused"
	outcomeNotFound = "not_found"
)

// maxMessage bounds what of a program's own words goes into errors, in bytes.
const maxMessage = 512

// answer is what the program prints.
type answer struct {
	Schema  int                 `json:"schema"`
	Outcome string              `json:"outcome"`
	Message string              `json:"message"`
	Node    *incident.NodeView  `json:"node"`
	Nodes   []incident.NodeView `json:"nodes"`
	Job     *incident.JobView   `json:"job"`
}

// decode reads one answer. Words for a node's or a job's state that this
// version does not know become unknown. An answer with one unusable view in it
// is none: half a picture of a cluster looks like the whole of a smaller one.
func decode(body []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, fmt.Errorf("decode answer: %w", err)
	}
	if a.Schema != Schema {
		return answer{}, fmt.Errorf("answer has schema %d, want %d", a.Schema, Schema)
	}
	switch a.Outcome {
	case outcomeDone, outcomeRefused, outcomeNotFound:
	default:
		return answer{}, fmt.Errorf("answer has outcome %.64q, want %s, %s or %s", a.Outcome, outcomeDone, outcomeRefused, outcomeNotFound)
	}
	a.Message = clip(a.Message)
	if a.Node != nil {
		if err := tidyNode(a.Node); err != nil {
			return answer{}, fmt.Errorf("answer's node: %w", err)
		}
	}
	seen := make(map[string]bool, len(a.Nodes))
	for i := range a.Nodes {
		if err := tidyNode(&a.Nodes[i]); err != nil {
			return answer{}, fmt.Errorf("answer's nodes[%d]: %w", i, err)
		}
		if seen[a.Nodes[i].Node] {
			return answer{}, fmt.Errorf("answer's nodes[%d]: %s appears twice", i, a.Nodes[i].Node)
		}
		seen[a.Nodes[i].Node] = true
	}
	if a.Job != nil {
		if err := tidyJob(a.Job); err != nil {
			return answer{}, fmt.Errorf("answer's job: %w", err)
		}
	}
	return a, nil
}

func tidyNode(v *incident.NodeView) error {
	if !fault.ValidName(v.Node) {
		return fmt.Errorf("%.64q is not a node's name", v.Node)
	}
	switch v.Responding {
	case incident.RespondingYes, incident.RespondingNo:
	default:
		v.Responding = incident.RespondingUnknown
	}
	v.Reason = clip(v.Reason)
	return nil
}

func tidyJob(v *incident.JobView) error {
	if v.Job == "" {
		return errors.New("has no id")
	}
	switch v.State {
	case incident.JobRunning, incident.JobPending, incident.JobStopped, incident.JobEnded:
	default:
		v.State = incident.JobUnknown
	}
	for _, node := range v.Nodes {
		if !fault.ValidName(node) {
			return fmt.Errorf("%.64q is not a node's name", node)
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > maxMessage {
		return s[:maxMessage] + "…"
	}
	return s
}
