package kernel

import (
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// efaSevere are the beginnings of the driver's messages (amzn/amzn-drivers,
// kernel/linux/efa/src/efa_com.c) after which the admin queue no longer works.
// "Failed to process command DEREG_MR … err -22" is none: it follows the exit of
// any process that left memory registered.
var efaSevere = []string{
	"The device didn't send any completion for admin cmd ",
	"Wait for completion (polling) timeout",
	"Admin queue is closed",
	"Reset indication didn't turn on",
	"Reset indication didn't turn off",
	"Device isn't ready, can't reset device",
	"Device isn't ready, abort com init",
	"Reading register timed out",
	"EFA device init failed",
}

// matchEFA reads "efa dddd:bb:dd.f[ name]: TEXT".
func matchEFA(m *Matcher, e *entry) {
	who, text, ok := strings.Cut(strings.TrimPrefix(e.text, "efa "), ": ")
	address, _, _ := strings.Cut(who, " ")
	pci, valid := fault.NormalizePCI(address)
	if !ok || !valid {
		return
	}
	for _, severe := range efaSevere {
		if strings.HasPrefix(text, severe) {
			e.say(fault.EFAAdminQueue, fault.Bad, fault.Subject{Device: fault.DeviceEFA, PCI: pci})
			return
		}
	}
}
