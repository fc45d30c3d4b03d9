package remediate

import (
	"context"
	"fmt"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// unconfigured stands for an orchestrator or a provider that the configuration
// leaves out: it knows nothing and does nothing, so that a first installation
// can observe before it is given any lever.
type unconfigured string // the block of the configuration that is missing

func (u unconfigured) unknown() error { return fmt.Errorf("%s is not configured", string(u)) }

func (u unconfigured) refused() error {
	return fmt.Errorf("%s is not configured: %w", string(u), incident.ErrNotExecuted)
}

func (u unconfigured) View(context.Context, string) (incident.NodeView, error) {
	return incident.NodeView{}, u.unknown()
}

func (u unconfigured) Views(context.Context) ([]incident.NodeView, error) { return nil, u.unknown() }

func (u unconfigured) Job(context.Context, string) (incident.JobView, error) {
	return incident.JobView{}, u.unknown()
}

func (u unconfigured) Instance(context.Context, string) (incident.Machine, error) {
	return incident.Machine{}, u.unknown()
}

func (u unconfigured) AtNode(context.Context, string) (incident.Machine, error) {
	return incident.Machine{}, u.unknown()
}

func (u unconfigured) Isolate(context.Context, incident.Isolation) error   { return u.refused() }
func (u unconfigured) Unisolate(context.Context, incident.Isolation) error { return u.refused() }
func (u unconfigured) Stop(context.Context, incident.Stoppage) error       { return u.refused() }
func (u unconfigured) Resume(context.Context, incident.Resumption) error   { return u.refused() }
func (u unconfigured) Replace(context.Context, incident.MachineCall) error { return u.refused() }
func (u unconfigured) Reboot(context.Context, incident.MachineCall) error  { return u.refused() }
