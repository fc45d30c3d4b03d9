package simdevice

import (
	"fmt"

	"github.com/evenkeel/evenkeel/agent/source"
)

// readings gives what a GPU's values are exported as: names, units and labels are
// those of dcgm-exporter, so that dashboards made for it work.
func (g *GPU) readings(node string) []source.Reading {
	labels := []source.Label{
		{Name: "gpu", Value: fmt.Sprint(g.Index)},
		{Name: "UUID", Value: g.UUID},
		{Name: "pci_bus_id", Value: "0000" + g.PCI + ".0"}, // DCGM pads the domain to eight digits
		{Name: "device", Value: fmt.Sprintf("nvidia%d", g.Index)},
		{Name: "modelName", Value: g.Model},
		{Name: "Hostname", Value: node},
	}
	var out []source.Reading
	add := func(name, help string, t source.ReadingType, value *float64, unit float64) {
		if value != nil {
			out = append(out, source.Reading{Name: name, Help: help, Type: t, Labels: labels, Value: *value / unit})
		}
	}
	add("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", source.Gauge, g.Temperature, 1)
	add("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", source.Gauge, g.Power, 1)
	add("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", source.Gauge, g.SMClock, 1e6)
	add("DCGM_FI_DEV_MAX_SM_CLOCK", "Maximum supported SM clock frequency (in MHz).", source.Gauge, g.MaxSMClock, 1e6)
	add("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", source.Gauge, g.Utilization, 0.01)
	add("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", source.Gauge, g.MemoryUsed, 1<<20)
	add("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Total number of double-bit volatile ECC errors.", source.Counter, g.DoubleBitErrors, 1)
	return out
}
