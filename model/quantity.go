package model

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Amounts of what is scarce are whole thousandths, so that half a core is one.
const (
	milli     = 1000
	maxAmount = 1 << 50 // in units: a pebibyte
)

// units are what can stand behind a number.
var units = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"B", 1},
}

// ParseAmount reads a number that is not negative, with a unit of bytes behind it or none ("512MiB", "2", "0.5"), as
// thousandths.
func ParseAmount(text string) (int64, error) {
	number, factor := strings.TrimSpace(text), 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || strings.ContainsAny(number, "xXpP_iI") {
		return 0, fmt.Errorf("%q is no amount", text)
	}
	if f *= factor; f < 0 || f > maxAmount {
		return 0, fmt.Errorf("%q is not between 0 and %d", text, int64(maxAmount))
	}
	return int64(math.Round(f * milli)), nil
}

// formatAmount writes thousandths: bytes in the largest unit that leaves a short number.
func formatAmount(dimension string, amount int64) string {
	if dimension == AttrMemory || dimension == AttrDisk {
		for i := 3; i >= 0; i-- {
			if f := float64(amount) / milli / units[i].factor; f >= 1 {
				return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) + " " + units[i].suffix
			}
		}
	}
	return strconv.FormatFloat(float64(amount)/milli, 'f', -1, 64)
}
