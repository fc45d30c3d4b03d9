package incident

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// recordSchema is the version of the journal's values. A higher one was written
// by a newer remediator and is refused, because acting on half an understanding
// of what was done before can do it twice.
const recordSchema = 1

// The journal's keys.
const (
	incidentPrefix = "incident/"
	controlKey     = "control"
)

// record is the value of one key.
type record struct {
	Schema   int       `json:"schema"`
	Incident *Incident `json:"incident,omitempty"`
	Control  *control  `json:"control,omitempty"`
}

// control is what the controller remembers beside its incidents.
type control struct {
	KillSwitch KillSwitch `json:"kill_switch"`
	// Together is when each family of faults was last seen on many nodes at once.
	Together map[fault.Family]time.Time `json:"together,omitempty"`
}

func encodeRecord(r record) ([]byte, error) {
	r.Schema = recordSchema
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode journal record: %w", err)
	}
	return value, nil
}

// decodeRecord reads the value of a key and refuses whatever it cannot vouch for.
func decodeRecord(key string, value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, fmt.Errorf("journal record %q: %w", key, err)
	}
	if r.Schema < 1 || r.Schema > recordSchema {
		return record{}, fmt.Errorf("journal record %q: schema %d is not known to this version, which knows 1 to %d", key, r.Schema, recordSchema)
	}
	id, isIncident := strings.CutPrefix(key, incidentPrefix)
	switch {
	case isIncident && r.Incident != nil:
		if err := r.Incident.validate(id); err != nil {
			return record{}, fmt.Errorf("journal record %q: %w", key, err)
		}
	case key == controlKey && r.Control != nil:
	default:
		return record{}, fmt.Errorf("journal record %q: holds nothing that belongs there", key)
	}
	return r, nil
}

// validate checks what the controller relies on when it goes on with an incident.
func (i *Incident) validate(id string) error {
	switch {
	case i.ID != id:
		return fmt.Errorf("holds incident %q", i.ID)
	case i.Node == "":
		return fmt.Errorf("names no node")
	case !slices.Contains(States, i.State):
		return fmt.Errorf("state %q is not known", i.State)
	case i.Outcome != "" && !slices.Contains(Outcomes, i.Outcome):
		return fmt.Errorf("outcome %q is not known", i.Outcome)
	case i.State == Closed && i.Outcome == "":
		return fmt.Errorf("is closed without an outcome")
	case len(i.Phases) == 0 || i.Phases[len(i.Phases)-1].State != i.State:
		return fmt.Errorf("phases do not end in state %q", i.State)
	}
	for n, s := range i.Steps {
		switch {
		case !slices.Contains(StepNames, s.Name):
			return fmt.Errorf("steps[%d].name %q is not known", n, s.Name)
		case s.Outcome != StepPending && !slices.Contains(StepOutcomes, s.Outcome):
			return fmt.Errorf("steps[%d].outcome %q is not known", n, s.Outcome)
		case s.Key == "":
			return fmt.Errorf("steps[%d].key is missing", n)
		case s.Destructive() && s.InstanceID == "":
			return fmt.Errorf("steps[%d].instance_id is missing", n)
		}
	}
	return nil
}
