package bench

import (
	"math"
	"time"
)

// growthParts is how many parts samples of a memory are fitted by, those of each
// together: samples that follow each other closely are no independent ones.
const growthParts = 8

// growth is how a process's resident memory rose, in bytes a second.
type growth struct {
	rise float64 // least squares of the parts' means
	ci   float64 // how far from it the true one is at most, either way, with 95 % confidence
	// flat is the most that rise may be with memory that is flat: what would double
	// it in a day, or one page for each part where that is more, as it is in a few
	// seconds, since memory comes in pages; and ci beside that, by which chance may
	// make it seem to rise, as a heap does that swells between collections.
	flat float64
}

// growthOf is the growth that samples show: their times, in seconds, the bytes that
// were resident at each, and the bytes of a page. It is NaN of fewer than three.
func growthOf(at, resident []float64, page int) growth {
	if len(at) < 3 {
		return growth{math.NaN(), math.NaN(), math.NaN()}
	}
	times := blocks(at, growthParts)
	rise, ci := slope(times, blocks(resident, growthParts))
	doubles := mean(resident) / (24 * time.Hour).Seconds()
	pages := float64(page*len(times)) / (at[len(at)-1] - at[0])
	return growth{rise, ci, max(doubles, pages) + ci}
}
