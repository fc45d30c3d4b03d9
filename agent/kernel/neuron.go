package kernel

import (
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// neuronActions maps the remedies that the Neuron runtime asks for. One that is
// not here is for a person to look at.
var neuronActions = map[string]fault.Action{
	"TERMINATE_INSTANCE": fault.Replace,
	"REBOOT_INSTANCE":    fault.Reboot,
}

// neuronErrors are the errors whose remedy is the catalogue's where the line
// names none.
var neuronErrors = map[string]bool{
	"SRAM_UNCORRECTABLE_ERROR": true,
	"NC_UNCORRECTABLE_ERROR":   true,
	"HBM_UNCORRECTABLE_ERROR":  true,
	"DMA_ERROR":                true,
}

// neuronHang is a collective that does not end. The fault is as likely on
// another worker (AWS Neuron documentation, runtime troubleshooting), so that it
// is never a reason to replace this one, whatever the line asks for.
const neuronHang = "HANG_ON_COLLECTIVES"

// matchNeuron reads "NEURON_HW_ERR=<error> nd-id=0 … action=<remedy>". The runtime
// hands the line to the kernel, at times behind a time stamp; behind anything
// else it is part of somebody else's message.
func matchNeuron(m *Matcher, e *entry) {
	before, after, _ := strings.Cut(e.text, "NEURON_HW_ERR=")
	if strings.Trim(strings.TrimPrefix(before, "kernel: "), "0123456789-:.,+TZ[] ") != "" {
		return
	}
	fields := strings.Fields(after)
	if len(fields) == 0 || strings.HasPrefix(after, " ") || !isErrorName(fields[0]) {
		return
	}
	s := fault.Subject{Device: fault.DeviceNeuron}
	var remedy string
	for _, f := range fields[1:] {
		switch key, value, _ := strings.Cut(f, "="); key {
		case "nd-id":
			if n, err := strconv.ParseUint(value, 10, 8); err == nil {
				index := int(n)
				s.Index = &index
			}
		case "action":
			remedy = value
		}
	}
	o := e.say(fault.NeuronHardware, fault.Bad, s)
	switch action, known := neuronActions[remedy]; {
	case fields[0] == neuronHang:
		o.Action, o.Severity = fault.Investigate, fault.Warning
	case known:
		o.Action = action
	case remedy == "" && neuronErrors[fields[0]]: // the catalogue's
	default:
		o.Action = fault.Investigate
	}
}

func isErrorName(s string) bool {
	return len(s) <= maxName && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}
