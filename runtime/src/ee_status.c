/* The names of the status codes; apart, so that a firmware without logs does not carry them. */
#include "ee_internal.h"

const char *ee_status_name(ee_status status) {
    switch (status) {
    case EE_OK:
        return "EE_OK";
    case EE_ERROR_NULL:
        return "EE_ERROR_NULL";
    case EE_ERROR_POINT:
        return "EE_ERROR_POINT";
    case EE_ERROR_ARGUMENT:
        return "EE_ERROR_ARGUMENT";
    case EE_ERROR_MAGIC:
        return "EE_ERROR_MAGIC";
    case EE_ERROR_VERSION:
        return "EE_ERROR_VERSION";
    case EE_ERROR_MODEL:
        return "EE_ERROR_MODEL";
    case EE_ERROR_ARENA_SIZE:
        return "EE_ERROR_ARENA_SIZE";
    case EE_ERROR_ARENA_ALIGNMENT:
        return "EE_ERROR_ARENA_ALIGNMENT";
    case EE_ERROR_STATE:
        return "EE_ERROR_STATE";
    case EE_ERROR_NO_ANSWER:
        return "EE_ERROR_NO_ANSWER";
    case EE_ERROR_ENGINE:
        return "EE_ERROR_ENGINE";
    }
    return "unknown";
}
