// Package avro has the part of its namesake that daprd uses, over hamba/avro, of which the namesake
// is a fork: the module proxy does not serve the fork.
package avro

import "github.com/hamba/avro/v2"

// Config is hamba's, with a limit for maps that has no effect here.
type Config struct {
	TagKey                     string
	BlockLength                int
	UnionResolutionError       bool
	PartialUnionTypeResolution bool
	DisableBlockSizeHeader     bool
	DisableCaching             bool
	MaxByteSliceSize           int
	MaxSliceAllocSize          int
	MaxMapAllocSize            int
}

// DefaultConfig is what the package uses.
var DefaultConfig = Config{}.Freeze()

// Freeze makes the configuration.
func (c Config) Freeze() avro.API {
	return avro.Config{MaxByteSliceSize: c.MaxByteSliceSize, MaxSliceAllocSize: c.MaxSliceAllocSize}.Freeze()
}
