package simdevice

import (
	"fmt"
	"strings"

	"github.com/evenkeel/evenkeel/agent/source"
)

// readings gives what a GPU's values are exported as: names, units and labels are
// those of dcgm-exporter, so that dashboards made for it work.
func (g *GPU) readings(node string) []source.Reading {
	labels := []source.Label{
		{Name: "gpu", Value: fmt.Sprint(g.Index)},
		{Name: "UUID", Value: g.UUID},
		{Name: "pci_bus_id", Value: dcgmPCI(g.PCI)},
		{Name: "device", Value: fmt.Sprintf("nvidia%d", g.Index)},
		{Name: "modelName", Value: g.Model},
		{Name: "Hostname", Value: node},
	}
	var out []source.Reading
	add := func(name, help string, t source.ReadingType, value *float64, scale float64) {
		if value != nil {
			out = append(out, source.Reading{Name: name, Help: help, Type: t, Labels: labels, Value: *value * scale})
		}
	}
	add("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", source.Gauge, g.Temperature, 1)
	add("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", source.Gauge, g.Power, 1)
	add("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", source.Gauge, g.SMClock, 1e-6)
	add("DCGM_FI_DEV_MAX_SM_CLOCK", "Maximum supported SM clock frequency (in MHz).", source.Gauge, g.MaxSMClock, 1e-6)
	add("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", source.Gauge, g.Utilization, 100)
	add("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", source.Gauge, g.MemoryUsed, 1.0/(1<<20))
	add("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Total number of double-bit volatile ECC errors.", source.Counter, g.DoubleBitErrors, 1)
	return out
}

// dcgmPCI is DCGM's spelling of a PCI address: the domain in eight digits, and the function.
func dcgmPCI(pci string) string {
	return strings.Repeat("0", max(0, len("00000000")-strings.IndexByte(pci, ':'))) + pci + ".0"
}
