// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the structures are written down, and what can be asked of them.

/// Size and fields of a structure, for a comparison with the header.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Name, here and in C.
    pub name: &'static str,
    /// In octets.
    pub size: usize,
    /// Name, offset and size of every field, in octets.
    pub fields: &'static [(&'static str, usize, usize)],
}

/// Defines structures of integers and arrays of them, asserts their size and
/// offsets and that there is no padding, and lists them in `LAYOUTS`.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident: $size:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $offset:literal),* $(,)?
    })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
            #[allow(non_camel_case_types)] // the header's name
            pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

            const _: () = {
                assert!(size_of::<$name>() == $size);
                $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
                // No padding: the fields fill the structure.
                assert!(0 $(+ size_of::<$type>())* == $size);
            };
        )*

        /// Every structure defined here.
        pub const LAYOUTS: &[$crate::Layout] = &[$($crate::Layout {
            name: stringify!($name),
            size: $size,
            fields: &[$((stringify!($field), $offset, size_of::<$type>())),*],
        }),*];
    };
}
